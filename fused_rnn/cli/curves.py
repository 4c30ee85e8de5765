# SPDX-License-Identifier: MIT
"""Pictures of a training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..text import perplexity
from .pictures import families, figure, save, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ..seq2seq import Translation
    from .comparison import Comparison

_FUSED, _TORCH, _BASELINE = "#1f6fb4", "#e07b39", "#444444"


class Course(NamedTuple):
    """The course of a training: losses, validations and the final perplexity."""

    losses: Sequence[float]
    # Pairs of a step and the mean loss of the held-out text.
    validations: Sequence[tuple[int, float]]
    # Perplexity of the held-out text at the end.
    final: float


def draw_training(path: Path, course: Course) -> None:
    """Writes a picture of perplexity over steps, a PNG file."""
    picture = figure(width=7)
    _draw_perplexity(picture.subplots(), course)
    save(picture, path)


def draw_attention(path: Path, translations: Sequence[Translation]) -> None:
    """Writes a picture of where the decoder looked, a panel for each sentence, a PNG file.

    Args:
        path: made or replaced.
        translations: with attention; the best candidate of each is drawn.
    """
    count = len(translations)
    columns = min(count, 3)
    rows = -(-count // columns)
    # The encoder reads an end, too.
    sources = [[*one.tokens, "<eos>"] for one in translations]
    targets = [one.candidates[0].tokens for one in translations]
    letters = families(token for tokens in (*sources, *targets) for token in tokens)
    # A token may hold any characters: none of them stands for a formula.
    label: dict[str, Any] = {"parse_math": False, "fontfamily": letters}
    picture = figure(width=5 * columns, height=4.5 * rows)
    for place, (one, source, target) in enumerate(
        zip(translations, sources, targets, strict=True), 1
    ):
        axes = picture.add_subplot(rows, columns, place)
        look = one.candidates[0].attention or []
        axes.imshow(look, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        axes.set_xticks(range(len(source)), source, rotation=60, ha="right", **label)
        axes.set_yticks(range(len(target)), target, **label)
    save(picture, path)


def draw_demo(
    path: Path, comparison: Comparison, course: Course, baseline: tuple[str, float]
) -> None:
    """Writes a picture of both losses, both speeds, and perplexity beside a baseline's.

    Args:
        path: a PNG file, made or replaced.
        comparison: the trainings side by side.
        course: the long training.
        baseline: name and held-out perplexity.
    """
    picture = figure(width=15)
    both, speed, predicted = picture.subplots(1, 3, width_ratios=(5, 3, 6))
    _draw_losses(both, comparison)
    _draw_speed(speed, comparison)
    name, value = baseline
    predicted.axhline(value, color=_BASELINE, linestyle="--", label=f"{name}: {value:.2f}")
    _draw_perplexity(predicted, course)
    save(picture, path)


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
    tidy(axes)


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
    axes.set(ylabel="tokens per second (median, p20 to p80)", ylim=(0, None))
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.set_title(f"Whole training steps:\n{comparison.ratio:.2f} times as fast")
    tidy(axes)


def _draw_perplexity(axes: Axes, course: Course) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator

    trained = [_finite(loss) for loss in _smooth(course.losses)]
    label = "trained on (running mean, with dropout)"
    axes.plot(range(1, len(trained) + 1), trained, color=_FUSED, alpha=0.4, label=label)
    axes.plot(
        [step for step, _ in course.validations],
        [_finite(loss) for _, loss in course.validations],
        color=_FUSED,
        marker="o",
        markersize=3,
        label=f"held out: {course.final:.2f} at the end",
    )
    axes.set(xlabel="step", ylabel="perplexity", yscale="log")
    if math.isfinite(course.final):
        # The first steps are a wall that hides the rest.
        axes.set_ylim(top=6 * course.final)
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 4, 5, 7)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(LogLocator(subs=()))
    axes.set_title("Perplexity")
    axes.legend()
    tidy(axes)


def _finite(loss: float) -> float:
    """The perplexity of a loss; NaN, which leaves a gap, where that is no finite number."""
    value = perplexity(loss, 1)
    return value if math.isfinite(value) else math.nan


def _smooth(losses: Sequence[float], keep: float = 0.95) -> list[float]:
    """Exponential running mean, corrected for its start from nothing."""
    mean, weight, smooth = 0.0, 0.0, []
    for loss in losses:
        mean, weight = keep * mean + (1 - keep) * loss, keep * weight + 1 - keep
        smooth.append(mean / weight)
    return smooth
