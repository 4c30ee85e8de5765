# SPDX-License-Identifier: MIT
"""PNG charts of recorded rows: ratio by shape, and time a step against H, T, B and threads."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from bench.comparison import Comparison
from bench.titles import CELLS, MODES, device

_COLORS = {"lstm": "#3b6fb6", "gru": "#d9822b", "rnn_tanh": "#4a9a5b"}
_PROVIDERS = {"fused_rnn": "#c0392b", "torch.nn": "#3b6fb6", "onnxruntime": "#7f8c8d"}
_STYLES: dict[str, Literal["-", "--"]] = {"infer": "-", "train": "--"}
_SWEEPS = {
    "scale-H": ("hidden size H (= I), B=16, T=64", "hidden"),
    "scale-T": ("steps T, B=16, H=256", "steps"),
    "scale-B": ("batch B, T=64, H=256", "batch"),
    "scale-threads": ("threads, B=16, T=64, H=256", "threads"),
}


def draw(comparisons: Sequence[Comparison], prefix: Path) -> list[Path]:
    """Writes PREFIX-<chart>.png for every chart there are rows for; their paths."""
    prefix.parent.mkdir(parents=True, exist_ok=True)
    charts = {"ratios": _ratios, "scaling": _scaling}
    paths = {prefix.with_name(f"{prefix.name}-{name}.png"): chart for name, chart in charts.items()}
    return [path for path, chart in paths.items() if chart(comparisons, path)]


def _plain(value: float, _: int = 0) -> str:
    return f"{value:g}"


def _of(
    comparisons: Sequence[Comparison], group: str, cell: str, mode: str
) -> dict[str, Comparison]:
    return {
        c.ours["shape"]: c
        for c in comparisons
        if (c.ours["group"], c.ours["cell"], c.ours["mode"]) == (group, cell, mode)
    }


def _ratio_panel(axes: Axes, comparisons: Sequence[Comparison], mode: str) -> list[float]:
    shapes = list(dict.fromkeys(c.ours["shape"] for c in comparisons if c.ours["group"] == "core"))
    height, seen = 0.8 / len(_COLORS), []
    for index, (cell, color) in enumerate(_COLORS.items()):
        found = _of(comparisons, "core", cell, mode)
        for place, shape in enumerate(shapes):
            y = place + (index - (len(_COLORS) - 1) / 2) * height
            comparison = found.get(shape)
            ratio = comparison and comparison.ratio(comparison.torch)
            if comparison is None or ratio is None:
                axes.text(1.02, y, "failed", va="center", fontsize=6, color=color)
                continue
            axes.barh(y, ratio - 1, height * 0.92, left=1, color=color, alpha=0.9, zorder=2)
            axes.annotate(
                f"{ratio:.2f}",
                (ratio, y),
                (3 if ratio >= 1 else -3, 0),
                textcoords="offset points",
                ha="left" if ratio >= 1 else "right",
                va="center",
                fontsize=6,
            )
            best = comparison.ratio(comparison.best)
            if best is not None and comparison.best is not comparison.torch:
                axes.plot(best, y, "D", color="black", markersize=2.5, zorder=3)
                seen.append(best)
            seen.append(ratio)
    axes.set_yticks(range(len(shapes)), [shape.replace("-", "  ") for shape in shapes], fontsize=8)
    axes.set_ylim(len(shapes) - 0.5, -0.5)
    axes.axvline(1, color="black", linewidth=0.8, zorder=4)
    axes.set_title(f"{MODES[mode]}: time of torch.nn over ours", fontsize=10)
    axes.grid(axis="x", which="major", color="#dddddd", zorder=0)
    return seen


def _ratios(comparisons: Sequence[Comparison], path: Path) -> bool:
    if not any(c.ours["group"] == "core" for c in comparisons):
        return False
    figure, panels = plt.subplots(1, 2, figsize=(11, 7), sharey=True)
    for axes, mode in zip(panels, ("infer", "train"), strict=True):
        seen = _ratio_panel(axes, comparisons, mode)
        low, high = min([*seen, 1]) / 1.25, max([*seen, 2]) * 1.3
        axes.set_xscale("log")
        axes.set_xlim(low, high)
        ticks = [t for t in (0.25, 0.5, 0.75, 1, 1.5, 2, 3, 4, 6, 8, 12, 16, 32) if low < t < high]
        axes.xaxis.set_major_locator(FixedLocator(ticks))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(_plain))
    handles: list[Artist] = [Rectangle((0, 0), 1, 1, color=color) for color in _COLORS.values()]
    handles.append(Line2D([], [], marker="D", color="black", linestyle="", markersize=4))
    labels = [*(CELLS[cell] for cell in _COLORS), "against a peer faster than torch.nn"]
    figure.legend(handles, labels, loc="lower center", ncols=len(labels), frameon=False)
    _save(figure, comparisons, path)
    return True


def _sweep_panel(axes: Axes, comparisons: Sequence[Comparison], cell: str, group: str) -> None:
    _, field = _SWEEPS[group]
    sizes: set[int] = set()
    for mode, style in _STYLES.items():
        lines: dict[str, list[tuple[int, float]]] = {}
        for comparison in _of(comparisons, group, cell, mode).values():
            for row in (comparison.ours, *comparison.peers):
                if row["p50"] is not None and row["provider"] in _PROVIDERS:
                    point = (row[field], row["p50"] / row["steps"] * 1e6)
                    lines.setdefault(row["provider"], []).append(point)
        for provider, points in lines.items():
            x, y = zip(*sorted(points), strict=True)
            sizes.update(x)
            axes.plot(x, y, style, color=_PROVIDERS[provider], marker="o", markersize=3)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.xaxis.set_major_locator(FixedLocator(sorted(sizes)))
    axes.xaxis.set_major_formatter(FuncFormatter(_plain))
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(_plain))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.grid(which="major", color="#dddddd")


def _scaling(comparisons: Sequence[Comparison], path: Path) -> bool:
    if not any(c.ours["group"] in _SWEEPS for c in comparisons):
        return False
    cells = ("lstm", "gru")
    figure, panels = plt.subplots(len(cells), len(_SWEEPS), figsize=(15, 7), squeeze=False)
    for row, cell in zip(panels, cells, strict=True):
        for axes, group in zip(row, _SWEEPS, strict=True):
            _sweep_panel(axes, comparisons, cell, group)
            axes.set_xlabel(_SWEEPS[group][0], fontsize=9)
        row[0].set_ylabel(f"{CELLS[cell]}: µs a step")
    handles = [Line2D([], [], color=color, marker="o") for color in _PROVIDERS.values()]
    handles += [Line2D([], [], color="black", linestyle=style) for style in _STYLES.values()]
    labels = [*_PROVIDERS, *(MODES[mode] for mode in _STYLES)]
    figure.legend(handles, labels, loc="lower center", ncols=len(labels), frameon=False)
    _save(figure, comparisons, path)
    return True


def _save(figure: Figure, comparisons: Sequence[Comparison], path: Path) -> None:
    """Writes a figure that says on which machine its times were taken."""
    row = comparisons[0].ours
    figure.suptitle(f"{row['machine']}: {device(row)}", fontsize=10)
    # Room for the machine's name above, for the legend below.
    figure.tight_layout(rect=(0, 0.05, 1, 0.99))
    figure.savefig(path, dpi=130)
    plt.close(figure)
