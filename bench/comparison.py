# SPDX-License-Identifier: MIT
"""Recorded rows set side by side: this package's beside its peers', of one machine."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from bench.rows import Row, machine_of

# Rows of this package, and what their names say in a table.
OURS = {
    "fused_rnn": "",
    "fused_rnn-prepacked": ", prepacked",
    "fused_rnn-reset-after": ", reset after",
}


class Comparison(NamedTuple):
    """One case in one mode: this package's row and those it is compared with."""

    ours: Row
    torch: Row | None  # the fastest form of torch.nn
    best: Row | None  # the fastest peer of all
    peers: list[Row]

    def ratio(self, other: Row | None) -> float | None:
        """How many times as long the other one takes; None where one of them has no time."""
        if other is None or self.ours["p50"] is None or self.ours["failure"] is not None:
            return None
        return float(other["p50"] / self.ours["p50"])


def compare(rows: Sequence[Row]) -> list[Comparison]:
    """One comparison for each case and mode that this package has rows of, in their order.

    Raises:
        ValueError: the rows come from several machines.
    """
    machine_of(rows)
    found: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        found.setdefault((row["case"], row["mode"]), []).append(row)
    comparisons = []
    for together in found.values():
        peers = [row for row in together if row["provider"] not in OURS]
        timed = sorted((row for row in peers if row["p50"] is not None), key=lambda r: r["p50"])
        of_torch = [row for row in timed if row["provider"].startswith("torch.nn")]
        torch = of_torch[0] if of_torch else None
        best = timed[0] if timed else None
        for name in OURS:
            own = [row for row in together if row["provider"] == name]
            # Another GRU than the case's has no peers there.
            rivals = (torch, best, peers) if name != "fused_rnn-reset-after" else (None, None, [])
            comparisons += [Comparison(row, *rivals) for row in own[-1:]]
    return comparisons


def geometric_mean(values: Sequence[float]) -> float:
    """exp of the mean of the logarithms."""
    return math.exp(sum(map(math.log, values)) / len(values))
