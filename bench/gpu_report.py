# SPDX-License-Identifier: MIT
"""Tables of what `bench.gpu` recorded: `python -m bench.gpu_report FILE...`."""

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from bench import report, titles
from bench.comparison import geometric_mean
from bench.rows import Row, machine_of

OURS = ("fused_rnn", "fused_rnn-triton")
TITLES = {"fused_rnn": "CUDA", "fused_rnn-triton": "Triton"}
# Both forms that torch.nn has of a single step.
_TORCH = ("torch.nn", "torch.nn-cell")
_FLASH = "flashrnn-triton"
_LARGEST = 1024


def load(paths: Sequence[Path]) -> list[Row]:
    """The rows of some files; none of a file that is not there."""
    lines = [line for path in paths if path.exists() for line in path.read_text().splitlines()]
    return [json.loads(line) for line in lines]


def grouped(rows: Sequence[Row]) -> dict[tuple[str, str], dict[str, Row]]:
    """The rows of each case and mode by provider; a later row goes before an earlier one."""
    found: dict[tuple[str, str], dict[str, Row]] = {}
    for row in rows:
        found.setdefault((row["case"], row["mode"]), {})[row["provider"]] = row
    return found


def _time(by: dict[str, Row], names: Sequence[str]) -> float | None:
    """The shortest median of some providers, in seconds."""
    times = [by[name]["p50"] for name in names if by.get(name, {}).get("p50")]
    return min(times, default=None)


def ratio(by: dict[str, Row], own: str, others: Sequence[str] = _TORCH) -> float | None:
    """How many times as long the fastest of the others takes as one of our own."""
    mine, theirs = _time(by, [own]), _time(by, others)
    return theirs / mine if mine and theirs else None


def memory(by: dict[str, Row], own: str) -> float | None:
    """Peak bytes of one of our own over those of torch.nn."""
    mine, theirs = (by.get(name, {}).get("peak_bytes") for name in (own, "torch.nn"))
    return mine / theirs if mine and theirs else None


def means(rows: Sequence[Row]) -> list[list[str]]:
    """Geometric means of ratios, one line for each of our backends and what it is held to.

    Raises:
        ValueError: the rows come from several GPUs.
    """
    if rows:
        machine_of(rows, "gpu")
    lines = []
    for own in OURS:
        for mode in titles.MODES:
            for title, others, keep in _SETS:
                found = [
                    (ratio(by, own, others), memory(by, own))
                    for (_, of_mode), by in grouped(rows).items()
                    if of_mode == mode and keep(next(iter(by.values())))
                ]
                ratios = [one for one, _ in found if one is not None]
                used = [two for _, two in found if two is not None]
                if ratios:
                    mean, low = geometric_mean(ratios), min(ratios)
                    most = f"{max(used):.2f}" if used else "–"
                    cells = [report.times(mean), report.times(low), most, str(len(ratios))]
                    lines.append([TITLES[own], title, titles.MODES[mode], *cells])
    return lines


def _of(*cells: str, largest: int = 1 << 31) -> Callable[[Row], bool]:
    """Whether a row is of one of the cells, over several steps."""

    def keep(row: Row) -> bool:
        long = row["steps"] > 1 and row["dtype"] == "bfloat16"
        return long and row["cell"] in cells and row["hidden"] <= largest

    return keep


_SETS: tuple[tuple[str, Sequence[str], Callable[[Row], bool]], ...] = (
    ("LSTM × torch.nn", _TORCH, _of("lstm")),
    ("GRU × torch.nn", _TORCH, _of("gru")),
    ("RNN × torch.nn", _TORCH, _of("rnn_tanh")),
    (
        f"LSTM and GRU, H ≤ {_LARGEST:,} × torch.nn",
        _TORCH,
        _of("lstm", "gru", largest=_LARGEST),
    ),
    ("T = 1 × torch.nn", _TORCH, lambda row: row["steps"] == 1),
    ("LSTM × FlashRNN's Triton kernels", [_FLASH], _of("lstm")),
)
_MEANS = ("backend", "cases", "mode", "mean", "lowest", "most memory / torch.nn", "number")


def first_calls(rows: Sequence[Row]) -> list[str]:
    """A line for each first call that was measured."""
    found = []
    for (case, mode), by in grouped(rows).items():
        if mode == "first call":
            row = by["fused_rnn-triton"]
            said = row.get("reason") or f"{row['p50']:.1f} s until its first results"
            found.append(f"Triton, {case}: {said}")
    return found


def table(rows: Sequence[Row]) -> Iterator[str]:
    """Lines for a terminal: each case and mode, then the means."""
    yield (
        f"{'case':<40} {'mode':<6}{'CUDA us':>10}{'Triton us':>10}{'torch.nn':>10}{'float16':>10}"
        f"{'ratio':>7}{'ratio':>7}{'graphs':>7}{'graphs':>7}"
    )
    for (case, mode), by in grouped(rows).items():
        if mode == "first call":
            continue
        names = (["fused_rnn"], ["fused_rnn-triton"], _TORCH, ["torch.nn-float16"])
        times = [_time(by, own) for own in names]
        shown = "".join("         –" if t is None else f"{1e6 * t:10.1f}" for t in times)
        graphs = [f"{name}-graph" for name in _TORCH]
        ratios = [ratio(by, own) for own in OURS]
        ratios += [ratio(by, f"{own}-graph", graphs) for own in OURS]
        shown += "".join("      –" if one is None else f"{one:7.2f}" for one in ratios)
        yield f"{case:<40} {mode:<6}{shown}"
        yield from (f"    {line}" for line in (*reasons(by), *_kernels(by)))
    yield from ("", " | ".join(_MEANS), *(" | ".join(line) for line in means(rows)))
    yield from first_calls(rows)


def _kernels(by: dict[str, Row]) -> Iterator[str]:
    """Which CUDA kernels ran last in a case, forward and backward."""
    row = by.get("fused_rnn", {})
    for tier, count in row.get("fallbacks", {}).items():
        yield f"{tier} was refused as too large {count} times so far"
    if row.get("ran"):
        yield f"ran: {'; '.join(plan.partition(':')[0] for plan in row['ran'] if plan)}"


def reasons(by: dict[str, Row]) -> Iterator[str]:
    """Why providers have no time in a case, ours and torch.nn's, as they are and as graphs."""
    for name in (name + end for end in ("", "-graph") for name in (*OURS, *_TORCH)):
        if by.get(name, {}).get("reason"):
            yield f"{name}: {by[name]['reason']}"


def hardware(rows: Sequence[Row]) -> str:
    """The GPU and the software, in a sentence."""
    row = rows[-1]
    return (
        f"{row['gpu']}, driver {row['driver']}; torch {row['torch']}, CUDA {row['cuda']}, Triton "
        f"{row['triton']}; {report.origin(rows)}."
    )


def summary(rows: Sequence[Row]) -> str:
    """The means as a Markdown table."""
    return report.table(_MEANS, means(rows), words=3)


def full(rows: Sequence[Row]) -> str:
    """The whole report in Markdown."""
    providers = sorted({row["provider"] for row in rows if row["mode"] != "first call"})
    # Ours first.
    providers.sort(key=lambda name: name.partition("-")[0] != "fused_rnn")
    lines = []
    for (case, mode), by in grouped(rows).items():
        if mode != "first call":
            times = [_time(by, [name]) for name in providers]
            shown = [report.number(None if time is None else 1e6 * time) for time in times]
            lines.append([case, titles.MODES[mode], *shown])
    missing: dict[str, int] = {}
    for row in rows:
        if row.get("reason"):
            said = f"{row['provider']}: {row['reason']}"
            missing[said] = missing.get(said, 0) + 1
    parts = [
        "# Measurements on a GPU",
        hardware(rows),
        "Medians in microseconds of calls between CUDA events, the second-level cache flushed "
        "before each, every provider after a check against float64 on at most 64 steps. A ratio "
        "is the time of torch.nn (for T = 1 the faster of layer and cell) over ours, both eager; "
        "`-graph` is the same call as a CUDA graph.",
        "## Means",
        summary(rows),
        *first_calls(rows),
        "## Cases",
        report.table(["case", "mode", *providers], lines, words=2),
        "## Without a time, and how often",
        "\n".join(sorted(f"- {said} ({count})" for said, count in missing.items())),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def main() -> None:
    print(*table(load([Path(name) for name in sys.argv[1:]])), sep="\n")


if __name__ == "__main__":
    main()
