# SPDX-License-Identifier: MIT
"""Reports of what `bench.book`, `bench.translation` and `bench.search` recorded."""

from collections.abc import Callable, Sequence
from statistics import fmean

from bench import report, titles
from bench.comparison import geometric_mean
from bench.rows import Row

_BEAMS = ("beam 1", "beam 2")


def _machine(rows: Sequence[Row]) -> str:
    row = rows[-1]
    threads = titles.counted(row["threads"], "thread")
    software = f"torch {row['torch']}, Python {row['python']}"
    return f"{titles.device(row)}, {threads}; {software}; {report.origin(rows)}."


def _by(rows: Sequence[Row], *columns: str) -> list[list[Row]]:
    """The rows that agree in some columns, together."""
    found: dict[tuple[object, ...], list[Row]] = {}
    for row in rows:
        found.setdefault(tuple(row[column] for column in columns), []).append(row)
    return list(found.values())


def _of_starts(values: Sequence[float], digits: int = 3) -> str:
    return ", ".join(f"{value:.{digits}f}" for value in values)


def _systems(rows: Sequence[Row]) -> str:
    lines = []
    for own in _by(rows, "system", "epochs", "threads"):
        figures = [_of_starts([row[who]["figure"] for row in own]) for who in ("fused", "torch.nn")]
        rates = [
            f"{fmean(row[who]['tokens_per_second']['p50'] for row in own):,.0f}"
            for who in ("fused", "torch.nn")
        ]
        ratio = geometric_mean([row["ratio"] for row in own])
        first = own[0]
        book = f"{first['book']['figure']:g}"
        name = [first["system"], first["metric"]]
        lines.append([*name, str(first["epochs"]), book, *figures, *rates, report.times(ratio)])
    header = ["system", "metric", "epochs", "book", "fused, each start", "torch.nn, each start"]
    header += ["fused, tokens/s", "torch.nn, tokens/s", "ratio"]
    return report.table(header, lines, words=2)


def _translations(rows: Sequence[Row]) -> str:
    lines = []
    for own in _by([row for row in rows if _BEAMS[0] in row["fused"]], "system", "epochs"):
        for beam in _BEAMS:
            found = [row["fused"][beam] for row in own]
            exact = [
                f"{sum(one['bleu'] == 1 for one in each['sentences'].values())}" for each in found
            ]
            scores = _of_starts([each["bleu"] for each in found])
            lines.append([own[0]["system"], beam, ", ".join(exact), scores])
    header = ["system", "search", "of the book's four sentences right", "mean of the book's BLEU"]
    return report.table(header, lines, words=2) if lines else ""


def book(rows: Sequence[Row]) -> list[str]:
    """Paragraphs on the book's systems, for each processor apart."""
    paragraphs = []
    for own in _by(rows, "cpu"):
        said = f"Fused layers and torch.nn's, trained from the same starts. {_machine(own)}"
        paragraphs += [said, _systems(own), _translations(own)]
    return paragraphs


def translation(rows: Sequence[Row]) -> list[str]:
    """Paragraphs on the translation of held-out sentences, the last one recorded."""
    row = rows[-1]
    compared, options = row["comparison"], row["options"]
    seconds = compared["seconds_to_loss"]
    lines = [
        [
            beam,
            f"{row[beam]['bleu']:.2f}",
            f"{row[beam]['chrf']:.2f}",
            f"{row[beam]['seconds']:.0f}",
        ]
        for beam in ("beam 1", "beam 5")
    ]
    said = (
        f"English to French, {row['train_pairs']:,} pairs, {options['steps']:,} minibatches of "
        f"{options['batch_size']} in {row['train_seconds'] / 60:.0f} minutes; "
        f"{row['sentences']:,} English sentences held out with their {row['references']:,} "
        f"translations, perplexity {row['held_out_perplexity']:.2f}. To a training loss of "
        f"{compared['loss']:.3f} the fused layers take {seconds['fused']:.1f} s, torch.nn's "
        f"{seconds['torch.nn']:.1f} s: {report.times(compared['ratio'])} times as fast. "
        f"{_machine([row])}"
    )
    return [said, report.table(["search", "BLEU (sacrebleu)", "chrF", "s"], lines)]


def search(rows: Sequence[Row]) -> list[str]:
    """Paragraphs on the speed of search: the last of each kind, machines apart."""
    kinds = ("machine", "search", "batch", "vocab", "hidden", "layers", "steps", "threads")
    named = [row for row in rows if row.get("machine")]
    paragraphs = []
    for row in (own[-1] for own in _by(named, *kinds)):
        own = row["times"].get("fused_rnn", {}).get("median")
        lines = []
        for name, times in row["times"].items():
            of_bound = f"{row['bound'] / times['median']:.0%}"
            ratio = times["median"] / own if own else None
            # Of the same model in fewer bits a shorter time is no peer's.
            smaller = ratio is not None and name.startswith("fused_rnn, ")
            over = f"{ratio:.2f}" if smaller else report.times(ratio)
            spread = f"{1e3 * times['p20']:.1f}–{1e3 * times['p80']:.1f}"
            lines.append([name, f"{1e3 * times['median']:.1f} ({spread})", of_bound, over])
        said = (
            f"{row['machine']}: {row['search']}, batch {row['batch']}, "
            f"vocabulary {row['vocab']:,}, {row['layers']} GRU layers of {row['hidden']}, "
            f"{row['steps']} steps: {row['flop'] / 1e9:.2f} GFLOP, "
            f"at {row['flop_per_second'] / 1e9:.0f} GFLOP/s {1e3 * row['bound']:.1f} ms. "
            f"{_machine([row])}"
        )
        header = ["search by", "ms", "of the bound", "its time over ours"]
        missing = "\n".join(f"- {name}: {why}" for name, why in row["reasons"].items())
        paragraphs += [said, report.table(header, lines), missing]
    return paragraphs


def quantization(rows: Sequence[Row]) -> list[str]:
    """Paragraphs on weights of fewer bits: the last of each case, machines apart."""
    paragraphs = []
    for own in _by(rows, "machine", "kind", "threads"):
        last = [cases[-1] for cases in _by(own, "name")]
        names = list(dict.fromkeys(name for row in last for name in row["figures"]))
        if own[0]["kind"] == "speed":
            said = "Layers at B = 1, ms, and our float32 on prepacked weights over each"
            lines = [
                [row["name"], *(_time(row["figures"], name) for name in names)] for row in last
            ]
            header = ["layer", *names]
        else:
            said = "Models as trained, and with weights of fewer bits"
            header = ["model", "figure", *names]
            lines = [
                [row["name"], what, *(f"{row['figures'][name][what]:.3f}" for name in names)]
                for row in last
                for what in next(iter(row["figures"].values()))
            ]
        paragraphs += [f"{own[0]['machine']}: {said}. {_machine(own)}", report.table(header, lines)]
    return paragraphs


def episodes(rows: Sequence[Row]) -> list[str]:
    """Paragraphs on recurrent policies that learn, the last of each machine."""
    paragraphs = []
    for own in _by(rows, "machine", "what", "environments", "steps", "hidden", "threads"):
        row = own[-1]
        times = {name: 1e3 * one["median"] for name, one in row["seconds"].items()}
        said = (
            f"{row['machine']}: {row['what']}, {row['environments']} environments, "
            f"{row['steps']} steps, {row['hidden']} units: "
            + ", ".join(f"{name} {time:.0f} ms" for name, time in times.items())
            + f"; {report.times(row['ratio'])} times as fast as the next. {_machine([row])}"
        )
        paragraphs.append(said)
    return paragraphs


def cell_options(rows: Sequence[Row]) -> list[str]:
    """A table of layers of cells with options for each machine: the last of each case."""
    paragraphs = []
    for own in _by(rows, "machine", "threads"):
        last = [cases[-1] for cases in _by(own, "what", "batch", "hidden")]
        lines = [
            [
                row["what"],
                f"{row['batch']}, {row['steps']}, {row['hidden']}",
                f"{1e3 * row['seconds']['fused_rnn']['median']:.1f}",
                report.times(row["over_loop"]),
                report.times(row["over_compiled"]),
                f"{row['of_plain']:.2f}",
            ]
            for row in last
        ]
        header = ["layer", "B, T, I = H", "ms", "× loop", "× loop, compiled step", "of plain layer"]
        said = "the time of a loop over cells over ours, and ours over that of the plain layer"
        machine = f"{own[0]['machine']}: {said}. {_machine(own)}"
        paragraphs += [machine, report.table(header, lines, words=2)]
    return paragraphs


def _time(figures: dict[str, float], name: str) -> str:
    if name not in figures:
        return "–"
    ratio = figures["float32"] / figures[name]
    return f"{1e3 * figures[name]:.3f} ({report.times(ratio)})"


# By the name of their file of results: a title, and what is said of the rows.
REPORTS: dict[str, tuple[str, Callable[[Sequence[Row]], list[str]]]] = {
    "book": ("The book's systems", book),
    "translation": ("Translation", translation),
    "search": ("Speed of search", search),
    "quantization": ("Weights of fewer bits", quantization),
    "episodes": ("Recurrent policies that learn", episodes),
    "cell-options": ("Cells with options", cell_options),
}


def full(name: str, rows: Sequence[Row]) -> str:
    """The whole report of one file of results."""
    title, paragraphs = REPORTS[name]
    return "\n\n".join([f"# {title}", *filter(None, paragraphs(rows))]) + "\n"
