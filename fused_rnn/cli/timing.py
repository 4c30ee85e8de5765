# SPDX-License-Identifier: MIT
"""Fair timing of two ways to do the same thing."""

import time
from collections.abc import Callable, Sequence
from statistics import quantiles
from typing import NamedTuple


class Times(NamedTuple):
    """Seconds of one call: the median, and what a fifth of the calls stayed below or above."""

    p20: float
    median: float
    p80: float


def summarize(seconds: Sequence[float]) -> Times:
    """Returns the summary of single times."""
    fifths = quantiles(seconds, n=10, method="inclusive")
    return Times(fifths[1], fifths[4], fifths[7])


def alternate(
    tasks: Sequence[Callable[[], object]],
    *,
    seconds: float,
    warm_up: int = 3,
    least: int = 5,
    progress: Callable[[float], object] = lambda part: None,
) -> list[Times]:
    """Returns the times of tasks run in turn, so that a busy moment of the machine hits all.

    Each round begins with another task.

    Args:
        tasks: called again and again.
        seconds: when to stop, unless `least` rounds are not yet done.
        warm_up: rounds before those that count. Default 3.
        least: rounds that count at least. Default 5.
        progress: told after each round which part of the time has gone.
    """
    times: list[list[float]] = [[] for _ in tasks]
    start = time.perf_counter()
    done = 0
    while done < warm_up + least or time.perf_counter() - start < seconds:
        for turn in range(len(tasks)):
            index = (done + turn) % len(tasks)
            begin = time.perf_counter()
            tasks[index]()
            if done >= warm_up:
                times[index].append(time.perf_counter() - begin)
        done += 1
        progress(min(1.0, (time.perf_counter() - start) / seconds))
    return [summarize(one) for one in times]
