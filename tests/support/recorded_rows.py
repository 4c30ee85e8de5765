# SPDX-License-Identifier: MIT
"""Rows as `bench.run` writes them, of times that nobody measured."""

import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from bench import bounds, cases, harness, machine
from bench.rows import Row

ALL = cases.all_cases()
RATES = bounds.Rates(
    200e9,
    400e9,
    {"L1": 400e9, "L2": 200e9, "L3": 100e9, "DRAM": 20e9},
    {"L1": 64 << 10, "L2": 2 << 20, "L3": 32 << 20},
)
_record = cache(machine.record)


def row(provider: str, seconds: float | None, **columns: Any) -> Row:
    """A row of the first case unless another is named, of this machine unless one is."""
    case = columns.pop("case", ALL[0])
    base = harness.empty_row(case, columns.pop("mode", "infer"), provider)
    times = dict.fromkeys(("p20", "p50", "p80"), seconds)
    known = {"error": 0.5, "bound": 1e-3, "bound_kind": "FLOP", "rates": RATES._asdict()}
    return base | _record() | known | {"quick": False} | times | columns


def write(path: Path, rows: Iterable[Row]) -> None:
    path.write_text("".join(json.dumps(one) + "\n" for one in rows), encoding="utf-8")
