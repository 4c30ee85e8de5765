# SPDX-License-Identifier: MIT
"""The GPUs on which the kernels were seen to be right, which is where `auto` takes them.

Either a result in this repository says so, for all devices of a compute capability, or a run of
`python -m fused_rnn doctor --prove`, for the very device, driver and versions that it ran on.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import torch

from .. import extensions


class Proof(NamedTuple):
    """A backend that was measured, after a check of all its results."""

    capability: tuple[int, int]
    backend: str
    results: str  # the file under bench/results
    commit: str


PROVEN: tuple[Proof, ...] = ()

# Backend, then cell and dtype as in "gru bfloat16": "" where all was right, else what was not.
Verdicts = Mapping[str, Mapping[str, str]]

_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "fused_rnn")
_DRIVER = Path("/sys/module/nvidia/version")


class Key(NamedTuple):
    """The device and installation that a verdict holds for."""

    device: str
    driver: str
    torch: str
    triton: str
    library: str


def key_of(index: int) -> Key:
    """The key of a CUDA device of this machine, under this installation."""
    return Key(
        torch.cuda.get_device_name(index), _driver(), torch.__version__, _triton(), _library()
    )


def _driver() -> str:
    release = _DRIVER.read_text().strip() if _DRIVER.exists() else ""
    cuda: Any = torch._C
    return f"{cuda._cuda_getDriverVersion()} {release}".strip()


def _triton() -> str:
    try:
        return metadata.version("triton")
    except metadata.PackageNotFoundError:
        return ""


@cache
def _library() -> str:
    """A hash of the kernels: the library of CUDA's, and the sources of Triton's."""
    paths = sorted(Path(__file__).with_name("triton").glob("*.py"))
    library = extensions.cuda_library()
    paths += [] if library is None else [library]
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()


def _path(key: Key) -> Path:
    name = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]
    return _CACHE / f"proof-{name}.json"


def save(index: int, verdicts: Verdicts) -> Path:
    """Keeps for this user what was found on a device, from now on, and returns the file's path.

    Raises:
        OSError: the folder cannot be written to.
    """
    key = key_of(index)
    path = _path(key)
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"key": key._asdict(), "verdicts": verdicts}, indent=1) + "\n"
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
    for function in (_verdicts, _why_unproven):
        function.cache_clear()
    return path


@cache
def _verdicts(index: int) -> Verdicts:
    """The verdicts kept on disk for a device; empty where none can be read."""
    try:
        found: Any = json.loads(_path(key_of(index)).read_text(encoding="utf-8"))
        return {backend: dict(of) for backend, of in found["verdicts"].items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return {}


def why_unproven(backend: str, cell: str, dtype: str, index: int) -> str | None:
    """The reason why `auto` may not take a backend on a CUDA device, or None where it may.

    Args:
        backend: "native" or "triton".
        cell: a key of `ops.GATES`.
        dtype: its name, such as "bfloat16".
        index: of the device.
    """
    return _why_unproven(backend, cell, dtype, index)


# What torch.compiler.assume_constant_result does; a graph keeps the choice it was made with.
why_unproven._dynamo_marked_constant = True  # type: ignore[attr-defined]


@cache
def _why_unproven(backend: str, cell: str, dtype: str, index: int) -> str | None:
    if index >= torch.cuda.device_count():
        return f"there is no CUDA device {index}"
    verdict = _verdicts(index).get(backend, {}).get(f"{cell} {dtype}")
    if verdict:
        return f"`doctor --prove` found on this device: {verdict}"
    capability = torch.cuda.get_device_capability(index)
    if verdict == "" or (capability, backend) in [proof[:2] for proof in PROVEN]:
        return None
    return (
        "nothing proves it yet on devices of compute capability {}.{}; ".format(*capability)
        + f'backend="{backend}" runs it all the same, '
        + "and `python -m fused_rnn doctor --prove` proves it for this machine"
    )
