# SPDX-License-Identifier: MIT
"""Files of rows: read, told apart by machine, brought up to date."""

import json
from collections.abc import Iterable
from pathlib import Path

from bench.harness import Row


def load(paths: Iterable[Path]) -> list[Row]:
    """The rows of some files.

    Raises:
        ValueError: a row comes from a trial of the harness, which measures nothing.
    """
    rows = []
    for path in paths:
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            if row["quick"]:
                raise ValueError(f"{path}: expected measurements, got a row of a --quick run")
            rows.append(row)
    return rows


def machine_of(rows: Iterable[Row], column: str = "machine") -> str:
    """The machine that all the rows were measured on.

    Args:
        column: what tells one machine from another; where a GPU did the work, `gpu`.

    Raises:
        ValueError: they come from several, of which no figure may be made.
    """
    names = list(dict.fromkeys(row[column] for row in rows))
    if len(names) != 1:
        found = ", ".join(map(str, names)) or "none"
        raise ValueError(f"rows: expected those of one machine, got {found}")
    return str(names[0])
