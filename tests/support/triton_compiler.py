# SPDX-License-Identifier: MIT
"""Compiles Triton kernels for GPUs that are not there, from the very calls that launch them."""

import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

CUOBJDUMP = Path(triton.__path__[0], "backends", "nvidia", "bin", "cuobjdump")
# Of an MI300.
AMD = "gfx942"
# Bytes of shared memory a program may have: the CUDA programming guide's table of capacities, and
# the local data share of AMD's compute units.
SHARED: dict[int | str, int] = {80: 163 * 1024, 90: 227 * 1024, 100: 227 * 1024, AMD: 64 * 1024}


class Figures(NamedTuple):
    """What one compiled kernel needs."""

    name: str
    registers: int  # of a thread
    spilled: int  # bytes of a thread's stack
    shared: int  # bytes of a program


class _Driver:
    """Answers for a device of one architecture."""

    def __init__(self, architecture: int | str) -> None:
        amd = architecture == AMD
        self._target = GPUTarget("hip" if amd else "cuda", architecture, 64 if amd else 32)

    def get_current_target(self) -> GPUTarget:
        return self._target

    def get_current_device(self) -> int:
        return list(SHARED).index(self._target.arch)

    def get_current_stream(self, device: int) -> int:
        return 0


@contextmanager
def compile_only(architecture: int | str, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """Launches inside compile their kernel, which is put into the list, and run nothing."""
    compiled: list[Any] = []
    run = JITFunction.run

    def compile_it(kernel: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
        compiled.append(run(kernel, *args, grid=grid, warmup=True, **kwargs))

    with monkeypatch.context() as patch:
        patch.setattr(driver, "_active", _Driver(architecture))
        patch.setattr(JITFunction, "run", compile_it)
        yield compiled


def figures(kernel: Any) -> Figures:
    """What ptxas gave a compiled kernel, by the disassembler that Triton brings."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        command = [str(CUOBJDUMP), "-res-usage", file.name]
        shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    (used,) = re.findall(r"REG:(\d+) STACK:(\d+)", shown)
    return Figures(kernel.metadata.name, int(used[0]), int(used[1]), kernel.metadata.shared)
