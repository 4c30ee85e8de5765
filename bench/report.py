# SPDX-License-Identifier: MIT
"""Tables and charts from recorded rows: `python -m bench.report FILE... [--charts PREFIX]`."""

import argparse
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench import titles
from bench.comparison import OURS, Comparison, compare, geometric_mean
from bench.rows import Row, load, machine_of


def number(value: float | None, digits: int = 3) -> str:
    """Three significant digits, without an exponent."""
    if value is None:
        return "–"
    places = max(0, digits - 1 - math.floor(math.log10(abs(value)))) if value else 0
    return f"{value:.{min(places, 6)}f}"


def times(ratio: float | None) -> str:
    """A ratio of times; a loss says that it is one."""
    if ratio is None:
        return "–"
    return f"{ratio:.2f}" if ratio >= 1 else f"**{ratio:.2f} loss**"


def table(header: Sequence[str], rows: Iterable[Sequence[str]], words: int = 1) -> str:
    """A Markdown table: so many columns of words to the left, those of numbers to the right."""
    lines = [header, ["---"] * words + ["---:"] * (len(header) - words), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _milliseconds(row: Row | None) -> str:
    if row is None or row["p50"] is None:
        return "–"
    inexact = "†" * (row["error"] > 1)
    low, middle, high = (number(row[name] * 1e3) for name in ("p20", "p50", "p80"))
    return f"{middle} ({low}–{high}){inexact}"


def _memory(comparison: Comparison) -> str:
    ours, torch = comparison.ours["peak_bytes"], (comparison.torch or {}).get("peak_bytes")
    if ours is None or not torch:
        return "–"
    return f"{ours / 2**20:.1f} / {torch / 2**20:.1f}"


def _line(comparison: Comparison) -> list[str]:
    ours = comparison.ours
    if ours["failure"] is not None:
        return [ours["shape"], f"**FAILED**: {ours['failure']}", *["–"] * 8]
    best = comparison.best
    return [
        ours["shape"] + OURS[ours["provider"]],
        _milliseconds(ours),
        _milliseconds(comparison.torch),
        times(comparison.ratio(comparison.torch)),
        "–" if best is None else best["provider"],
        _milliseconds(best),
        times(comparison.ratio(best)),
        f"{number(ours['bound'] * 1e3)} ({ours['bound_kind']})",
        f"{ours['bound'] / ours['p50']:.0%}",
        _memory(comparison),
    ]


_HEADER = (
    "case",
    "fused_rnn, ms",
    "torch.nn, ms",
    "ratio",
    "best peer",
    "ms",
    "ratio",
    "bound, ms",
    "reached",
    "memory, MiB (ours / torch.nn)",
)


def summary(comparisons: Sequence[Comparison]) -> str:
    """Means and lowest cases over the core shapes, cell by cell and mode by mode."""
    lines = []
    for cell, title in titles.CELLS.items():
        for mode, word in titles.MODES.items():
            here = [
                comparison
                for comparison in comparisons
                if (comparison.ours["group"], comparison.ours["cell"], comparison.ours["mode"])
                == ("core", cell, mode)
            ]
            if here:
                lines.append([title, word, *_means(here)])
    header = (
        "layer",
        "mode",
        "× torch.nn, geometric mean",
        "lowest case",
        "× best peer, geometric mean",
        "lowest case",
        "cases",
    )
    return table(header, lines, words=2)


def field(machines: Mapping[str, Sequence[Comparison]]) -> str:
    """torch.nn's time over ours in each layer of a package, a column for each machine and mode."""
    columns = {
        f"{name}, {titles.MODES[mode]}": {
            c.ours["shape"]: c
            for c in comparisons
            if (c.ours["group"], c.ours["mode"]) == ("field", mode)
            and c.ours["provider"] == "fused_rnn"
        }
        for name, comparisons in machines.items()
        for mode in titles.MODES
    }
    columns = {title: found for title, found in columns.items() if found}
    shapes = dict.fromkeys(shape for found in columns.values() for shape in found)
    lines = [[shape, *(_cell(found.get(shape)) for found in columns.values())] for shape in shapes]
    for title, figure in (("geometric mean", geometric_mean), ("lowest", min)):
        all_ratios = [[c.ratio(c.torch) for c in found.values()] for found in columns.values()]
        ratios = [[ratio for ratio in column if ratio is not None] for column in all_ratios]
        lines.append([title, *(times(figure(column) if column else None) for column in ratios)])
    return table(["LSTM", *columns], lines) if columns else ""


def _cell(comparison: Comparison | None) -> str:
    if comparison is None:
        return "–"
    failed = comparison.ours["failure"] is not None
    return "**FAILED**" if failed else times(comparison.ratio(comparison.torch))


def _means(here: Sequence[Comparison]) -> list[str]:
    cells: list[str] = []
    for name in ("torch", "best"):
        all_ratios = [comparison.ratio(getattr(comparison, name)) for comparison in here]
        ratios = [ratio for ratio in all_ratios if ratio is not None]
        mean = geometric_mean(ratios) if ratios else None
        cells += [times(mean), times(min(ratios, default=None))]
    failed = sum(comparison.ours["failure"] is not None for comparison in here)
    return [*cells, f"{len(here)}" + f", **{failed} failed**" * (failed > 0)]


def origin(rows: Sequence[Row]) -> str:
    """The commits that were measured, as groups of cases may have been at different times."""
    commits = list(dict.fromkeys(row["commit"] for row in rows))
    return f"commit{'s' * (len(commits) > 1)} {', '.join(commits)}, {rows[-1]['date']}"


def hardware(rows: Sequence[Row]) -> str:
    """The machine, the software and the measured peaks, in a sentence each.

    Raises:
        ValueError: the rows come from several machines.
    """
    row = rows[-1]
    isa = next((r["instruction_set"] for r in rows if r["instruction_set"]), "none")
    software = f"torch {row['torch']}, Python {row['python']}, instruction set {isa}"
    rates = [r["rates"] for r in rows if r["rates"] and r["threads"] == 2]
    said = f"{machine_of(rows)}: {titles.device(row)}; {software}; {origin(rows)}."
    if not rates:
        return said

    def middle(pick: Any) -> str:
        values = sorted(pick(rate) for rate in rates)
        return number(values[len(values) // 2] / 1e9)

    flops, half = middle(lambda rate: rate["flops"]), middle(lambda rate: rate["flops_bfloat16"])
    levels = ", ".join(
        f"{name} {middle(lambda rate, level=name: rate['read'][level])} GB/s"
        for name in rates[0]["read"]
    )
    return (
        f"{said} Measured beside the cases, median, 2 threads: {flops} GFLOP/s float32, {half} "
        f"bfloat16; reading {levels}."
    )


def _reasons(comparisons: Sequence[Comparison]) -> str:
    seen: dict[tuple[str, str], int] = {}
    # Once a case, however many rows of ours it has.
    for comparison in (c for c in comparisons if c.ours["provider"] == "fused_rnn"):
        for row in comparison.peers:
            if row["p50"] is None:
                key = (row["provider"], row["reason"])
                seen[key] = seen.get(key, 0) + 1
    lines = [f"- {provider}: {reason} ({count})" for (provider, reason), count in seen.items()]
    return "\n".join(sorted(lines))


def full(rows: Sequence[Row]) -> str:
    """The whole report."""
    comparisons = compare(rows)
    parts = [
        f"# Measurements on {machine_of(rows)}",
        hardware(rows),
        "Times are medians with the 20th and 80th percentile, of calls taken in turns in one "
        "process, each after a check against float64. A ratio is a peer's time over ours. The "
        "bound is the longer of FLOP over the measured peak and bytes of recurrent weights over "
        "the measured bandwidth of the level that holds them. Memory is what the first call adds "
        "to the resident pages at its peak. †: less exact than our own layers must be.",
        "## Summary",
        summary(comparisons),
    ]
    for group, title in titles.GROUPS.items():
        here = [c for c in comparisons if c.ours["group"] == group]
        parts += [f"## {title}"] if here else []
        parts += [field({machine_of(rows): here})] if here and group == "field" else []
        parts += _group(here)
        parts += _over_reset_after(rows) if group == "textbook" else []
    parts += ["## Peers that could not run, and how many cases of theirs", _reasons(comparisons)]
    return "\n\n".join(parts) + "\n"


def _over_reset_after(rows: Sequence[Row]) -> list[str]:
    """How much longer the textbook GRU takes than torch.nn's form, both ours, in one process."""
    seconds = {(row["case"], row["mode"], row["provider"]): row["p50"] for row in rows}
    ratios = [
        seconds[case, mode, "fused_rnn"] / after
        for (case, mode, provider), after in seconds.items()
        if provider == "fused_rnn-reset-after" and after and seconds[case, mode, "fused_rnn"]
    ]
    if not ratios:
        return []
    mean, most = geometric_mean(ratios), max(ratios)
    return [
        f"It takes {mean:.2f} times as long as our reset-after GRU in the mean, {most:.2f} at most."
    ]


def _group(comparisons: Sequence[Comparison]) -> list[str]:
    parts = []
    for cell, name in titles.CELLS.items():
        for mode, word in titles.MODES.items():
            here = [c for c in comparisons if (c.ours["cell"], c.ours["mode"]) == (cell, mode)]
            if here:
                parts += [f"### {name}, {word}", table(_HEADER, map(_line, here))]
    return parts


def main(argv: list[str] | None = None) -> int:
    """Prints the report and, if asked, draws the charts."""
    parser = argparse.ArgumentParser(prog="bench.report", description=__doc__)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--charts", type=Path, metavar="PREFIX", help="write PREFIX-<chart>.png")
    arguments = parser.parse_args(argv)
    rows = load(arguments.files)
    print(full(rows))
    if arguments.charts is not None:
        from bench import charts

        for path in charts.draw(compare(rows), arguments.charts):
            print(path, file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
