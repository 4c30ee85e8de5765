# SPDX-License-Identifier: MIT
"""Checkpoints: a folder with a JSON file and the safetensors file that it names.

The JSON file is what makes a checkpoint: it is put in its place last, by one rename, and holds the
name and the SHA-256 of its tensors. A save that ends early, for whatever reason, leaves the
checkpoint that was there before.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from .files import replace_file

RECORD = "checkpoint.json"
_FORMAT = "fused_rnn checkpoint 1"
# With what a killed save may have left.
_TENSORS = re.compile(r"tensors-[0-9a-f]{16}\.safetensors(\.tmp)?")


class CheckpointError(ValueError):
    """A checkpoint that cannot be read or does not fit, and why."""


class Checkpoint(NamedTuple):
    """The contents of a checkpoint."""

    record: dict[str, Any]
    tensors: dict[str, Tensor]


def holds_checkpoint(folder: str | Path) -> bool:
    """Returns whether a folder holds a checkpoint."""
    return (Path(folder) / RECORD).exists()


def save(
    folder: str | Path, kind: str, record: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> None:
    """Puts a checkpoint into a folder, in place of the one there.

    Args:
        folder: made if it is not there.
        kind: what the checkpoint is of; to be given again when it is loaded.
        record: whatever JSON can hold.
        tensors: by name.

    Raises:
        OSError: it could not be written; the checkpoint that was there is untouched.
    """
    from safetensors.torch import save as serialize

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    data = serialize({name: tensor.detach().contiguous() for name, tensor in tensors.items()})
    digest = hashlib.sha256(data).hexdigest()
    path = folder / f"tensors-{digest[:16]}.safetensors"
    before = _tensor_files(folder)
    header = {"format": _FORMAT, "kind": kind, "tensors": path.name, "sha256": digest}
    text = json.dumps({**header, **record}, ensure_ascii=False, indent=1) + "\n"
    try:
        replace_file(path, data)
        # The tensors must last before anything names them.
        _sync(folder)
        replace_file(folder / RECORD, text.encode())
    except BaseException:
        if path not in before:
            path.unlink(missing_ok=True)
        raise
    _sync(folder)
    for old in before - {path}:
        old.unlink()


def load(folder: str | Path, kind: str) -> Checkpoint:
    """Returns the checkpoint in a folder.

    Args:
        folder: where it was saved.
        kind: what it is expected to be of.

    Raises:
        CheckpointError: there is none, it is truncated or altered, or it is something else.
    """
    from safetensors.torch import load as deserialize

    path = Path(folder) / RECORD
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise CheckpointError(f"{folder}: expected a checkpoint, found no {RECORD}") from None
    except ValueError as error:
        raise CheckpointError(f"{path}: expected JSON, got a damaged file ({error})") from None
    if not isinstance(record, dict) or record.get("format") != _FORMAT:
        found = record.get("format") if isinstance(record, dict) else type(record).__name__
        raise CheckpointError(f"{path}: expected format {_FORMAT!r}, got {found!r}")
    if record.get("kind") != kind:
        raise CheckpointError(f"{path}: expected one of a {kind}, got {record.get('kind')!r}")
    return Checkpoint(record, deserialize(_tensor_data(path, record)))


def _sync(folder: Path) -> None:
    """Makes renames last; where folders cannot be opened (Windows), there is no such thing."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _tensor_files(folder: Path) -> set[Path]:
    return {path for path in folder.iterdir() if _TENSORS.fullmatch(path.name)}


def _tensor_data(path: Path, record: dict[str, Any]) -> bytes:
    name = str(record.get("tensors"))
    if not _TENSORS.fullmatch(name):
        raise CheckpointError(f"{path}: expected the name of a tensors file, got {name!r}")
    try:
        data = path.with_name(name).read_bytes()
    except FileNotFoundError:
        raise CheckpointError(f"{path}: its tensors are missing, expected {name}") from None
    if hashlib.sha256(data).hexdigest() != record.get("sha256"):
        raise CheckpointError(
            f"{path.with_name(name)}: truncated or altered, its {len(data)} bytes do not have "
            f"the SHA-256 that {RECORD} gives"
        )
    return data
