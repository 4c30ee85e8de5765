# SPDX-License-Identifier: MIT
"""Files of rows: read, told apart by machine, brought up to date."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def is_ours(provider: str) -> bool:
    """Whether a provider runs this package's layers, as they are or in some special way."""
    return provider.startswith("fused_rnn")


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


def save(path: Path, rows: Iterable[Row]) -> None:
    """Writes a whole file, at once: whoever stops in between leaves the old one."""
    partial = path.with_suffix(".partial")
    partial.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    partial.replace(path)


def _key(row: Row) -> tuple[str, str, str]:
    return row["case"], row["mode"], row["provider"]


def merge(path: Path, new: Sequence[Row]) -> int:
    """Puts new rows in the places of those of the same case, mode and provider, the rest last.

    Returns:
        How many older rows now stand beside new ones of their case and mode: of providers that
        did not run again, and so not in turns with the new ones.

    Raises:
        ValueError: the rows, or those of the file, come from another machine or from a trial.
    """
    if any(row["quick"] for row in new):
        raise ValueError(f"{path}: expected measurements, got a row of a --quick run")
    old = load([path]) if path.exists() else []
    machine_of([*old, *new])
    rows = {_key(row): row for row in [*old, *new]}
    save(path, rows.values())
    places = {_key(row)[:2] for row in new}
    return sum(key[:2] in places for key in rows) - len({_key(row) for row in new})
