# SPDX-License-Identifier: MIT
"""Pictures of a training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from .comparison import Comparison

_FUSED, _TORCH, _BASELINE = "#1f6fb4", "#e07b39", "#444444"


def draw_training(
    path: Path, losses: Sequence[float], validations: Sequence[tuple[int, float]]
) -> None:
    """Writes a picture of perplexity over steps.

    Args:
        path: a PNG file, made or replaced.
        losses: mean loss of each step.
        validations: pairs of a step and the mean loss of the held-out text.
    """
    figure = _figure(width=7)
    _draw_perplexity(figure.subplots(), losses, validations)
    figure.savefig(path)


def draw_demo(
    path: Path,
    comparison: Comparison,
    losses: Sequence[float],
    validations: Sequence[tuple[int, float]],
    baseline: tuple[str, float],
) -> None:
    """Writes a picture of a demo: both losses, both speeds, perplexity beside a baseline's.

    Args:
        path: a PNG file, made or replaced.
        comparison: the trainings side by side.
        losses: mean loss of each step of the long training.
        validations: its pairs of a step and the mean loss of the held-out text.
        baseline: name and held-out perplexity.
    """
    figure = _figure(width=15)
    both, speed, perplexity = figure.subplots(1, 3, width_ratios=(5, 3, 6))
    _draw_losses(both, comparison)
    _draw_speed(speed, comparison)
    name, value = baseline
    perplexity.axhline(value, color=_BASELINE, linestyle="--", label=f"{name}: {value:.2f}")
    _draw_perplexity(perplexity, losses, validations)
    figure.savefig(path)


def _figure(*, width: float) -> Figure:
    # Figure without pyplot: no window system, no global state.
    from matplotlib.figure import Figure

    return Figure(figsize=(width, 4.5), dpi=120, layout="constrained")


def _draw_losses(axes: Axes, comparison: Comparison) -> None:
    fused, torch = comparison.fused, comparison.torch
    steps = range(1, len(fused.losses) + 1)
    axes.plot(steps, torch.losses, color=_TORCH, linewidth=5, alpha=0.5, label=torch.name)
    axes.plot(steps, fused.losses, color=_FUSED, linewidth=1.2, label=fused.name)
    axes.set(xlabel="step", ylabel="training loss, nats per character")
    axes.set_title(
        "Same weights, same batches: one loss\n"
        f"(largest difference {comparison.largest_difference:.0e})"
    )
    axes.legend()
    _tidy(axes)


def _draw_speed(axes: Axes, comparison: Comparison) -> None:
    pair = (comparison.fused, comparison.torch)
    rates = [contender.tokens_per_second for contender in pair]
    spread = [[r.median - r.p20 for r in rates], [r.p80 - r.median for r in rates]]
    bars = axes.bar(
        [contender.name for contender in pair],
        [rate.median for rate in rates],
        yerr=spread,
        color=(_FUSED, _TORCH),
        ecolor=_BASELINE,
        capsize=6,
    )
    labels = [f"{rate.median:,.0f}" for rate in rates]
    axes.bar_label(bars, labels, label_type="center", color="white", fontweight="bold")
    axes.set(ylabel="tokens per second", ylim=(0, None))
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.set_title(f"Whole training steps, {comparison.ratio:.2f} x\n(median, p20, p80)")
    _tidy(axes)


def _draw_perplexity(
    axes: Axes, losses: Sequence[float], validations: Sequence[tuple[int, float]]
) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator

    trained = [math.exp(loss) for loss in _smooth(losses)]
    label = "trained on (running mean, with dropout)"
    axes.plot(range(1, len(trained) + 1), trained, color=_FUSED, alpha=0.4, label=label)
    held_out = [math.exp(loss) for _, loss in validations]
    axes.plot(
        [step for step, _ in validations],
        held_out,
        color=_FUSED,
        marker="o",
        markersize=3,
        label="held out" + (f": {held_out[-1]:.2f} at the end" if held_out else ""),
    )
    axes.set(xlabel="step", ylabel="perplexity", yscale="log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(LogLocator(subs=()))
    axes.set_title("Perplexity")
    axes.legend()
    _tidy(axes)


def _tidy(axes: Axes) -> None:
    axes.grid(axis="y", color="#dddddd")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _smooth(losses: Sequence[float], keep: float = 0.95) -> list[float]:
    """Exponential running mean, corrected for its start from nothing."""
    mean, weight, smooth = 0.0, 0.0, []
    for loss in losses:
        mean, weight = keep * mean + (1 - keep) * loss, keep * weight + 1 - keep
        smooth.append(mean / weight)
    return smooth
