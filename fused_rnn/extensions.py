# SPDX-License-Identifier: MIT
"""The compiled extensions: whether they are there, how they were built, what they would run."""

from bisect import bisect_left
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch

_C: ModuleType | None
_REASON: str | None = None
try:
    _C = import_module("fused_rnn._C")
except ImportError as error:
    _C = None
    _REASON = f"the extension fused_rnn._C cannot be loaded ({error})"

# The CUDA kernels, which need the CUDA build of torch that they were linked with.
_CUDA_LIBRARY = "libfused_rnn_ops_cuda.so"
_CUDA: ModuleType | None
_CUDA_REASON: str | None = None
try:
    _CUDA = import_module("fused_rnn._C_cuda")
except ImportError as error:
    _CUDA = None
    _CUDA_REASON = f"the extension fused_rnn._C_cuda cannot be loaded ({error})"

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
# How many recurrences one launch takes, and blocks a cluster: 16 from compute capability 9.0 on.
CUDA_RECURRENCES = 64
LARGEST_CLUSTER = 16
# The compute capability of Orin, the one of the Jetson family among those of the kernels.
_JETSON = (8, 7)
# What a plan is asked for, to see where weights no longer stay.
_MOST_UNITS, _MANY_ROWS = 4096, 4096


class CudaDevice(NamedTuple):
    """The sizes of a CUDA device that a plan of the kernels depends on, besides the shape."""

    processors: int
    shared_bytes: int  # that one block may ask for
    cluster: int = 1  # blocks of a cluster at most; 1 where there are none


def why_unavailable() -> str | None:
    """Returns why the compiled CPU kernels cannot run here, or None if they can."""
    return _REASON


def why_cuda_unavailable(index: int = 0) -> str | None:
    """Returns why the CUDA kernels cannot run on a device, or None if they can."""
    if _CUDA_REASON is not None:
        return _CUDA_REASON
    return _why_not_built_for(index)


@cache
def _why_not_built_for(index: int) -> str | None:
    if index >= torch.cuda.device_count():
        # Nothing runs there; shapes alone are asked for.
        return None
    built = str(_cuda_build_info()["CUDA architectures"])
    major, minor = torch.cuda.get_device_capability(index)
    if any(_runs_on(name, major, minor) for name in built.split()):
        return None
    found = f"device {index} has compute capability {major}.{minor}"
    return f"its CUDA kernels were built for {built}, {found}"


def _cuda_build_info() -> dict[str, str]:
    return {} if _CUDA is None else dict(_CUDA.build_info())


def _runs_on(architecture: str, major: int, minor: int) -> bool:
    """Whether a device runs what nvcc compiled for an architecture, such as "80" or "90a".

    Code runs on later devices of its major version, code with an "a" only where it was meant to,
    and between cards and the modules of the Jetson family none does: "CUDA C++ Programming Guide",
    binary compatibility and feature sets.
    """
    built = divmod(int(architecture.removesuffix("a")), 10)
    if architecture.endswith("a") or _JETSON in (built, (major, minor)):
        return built == (major, minor)
    return built[0] == major and built[1] <= minor


def cuda_device(index: int) -> CudaDevice:
    """Returns the sizes of a CUDA device of this machine."""
    properties: Any = torch.cuda.get_device_properties(index)
    return CudaDevice(
        properties.multi_processor_count,
        properties.shared_memory_per_block_optin,
        LARGEST_CLUSTER if properties.major >= 9 else 1,
    )


def cuda_plan(
    cell: str,
    dtype: torch.dtype,
    *,
    steps: int,
    batch: int,
    recurrences: int,
    hidden: int,
    device: CudaDevice,
    backward: bool = False,
) -> str:
    """Returns which CUDA kernels run one pass of a layer on a device, and why; needs no GPU.

    Args:
        cell: a key of `ops.GATES`.
        dtype: of the tensors.
        steps, batch, recurrences, hidden: T, B, N, H.
        device: the sizes of the device.
        backward: the backward pass instead of the forward one.

    Raises:
        RuntimeError: there is no extension, or cell or dtype is unknown.
    """
    return str(
        _loaded().cuda_plan(
            cell=cell,
            dtype=str(dtype).removeprefix("torch."),
            steps=steps,
            batch=batch,
            recurrences=recurrences,
            hidden=hidden,
            processors=device.processors,
            shared_bytes=device.shared_bytes,
            cluster=device.cluster,
            backward=backward,
        )
    )


def largest_kept(cell: str, dtype: torch.dtype, index: int) -> int:
    """Returns the most units whose weights a CUDA device keeps between steps, for every batch.

    Larger layers take a library's product and a launch for each step. Where no plan can be made,
    none is known to be too large.
    """
    return _largest_kept(cell, dtype, index)


@cache
def _largest_kept(cell: str, dtype: torch.dtype, index: int) -> int:
    if _C is None or index >= torch.cuda.device_count():
        return _MOST_UNITS
    sizes, device = dict(steps=2, batch=_MANY_ROWS, recurrences=1), cuda_device(index)

    def is_too_large(hidden: int) -> bool:
        plans = (
            cuda_plan(cell, dtype, hidden=hidden, device=device, backward=backward, **sizes)
            for backward in (False, True)
        )
        return any(plan.startswith("tier stepwise") for plan in plans)

    return bisect_left(range(1, _MOST_UNITS), True, key=is_too_large)


def last_plan(backward: bool = False) -> str:
    """Returns which CUDA kernels ran the last such pass of this process, as `cuda_plan` says it.

    Raises:
        RuntimeError: there is no extension with CUDA kernels.
    """
    return str(_cuda_loaded().last_plan(backward))


def check_waits() -> None:
    """Raises what the next call would where a wait of a CUDA kernel that has ended ran out.

    Raises:
        RuntimeError: one ran out; or there is no extension with CUDA kernels.
    """
    _cuda_loaded().check_waits()


def fallbacks() -> dict[str, int]:
    """Returns how often a device refused the kernels planned, as too large, by their tier.

    Others ran in their place; empty without the CUDA kernels.
    """
    return {} if _CUDA is None else dict(_CUDA.fallbacks())


def cuda_library() -> Path | None:
    """Returns the library with the CUDA kernels; None where it is not loaded."""
    return None if _CUDA is None else Path(str(_CUDA.__file__)).with_name(_CUDA_LIBRARY)


def build_info() -> dict[str, str]:
    """Returns how the extensions were built; empty without any."""
    info = {} if _C is None else dict(_C.build_info())
    return info | _cuda_build_info()


def instruction_sets() -> list[str]:
    """Returns the instruction sets this machine runs, the fastest first."""
    return [] if _C is None else list(_C.instruction_sets())


def instruction_set() -> str:
    """Returns the instruction set asked for, else the most capable, which serves what it pays for.

    Raises:
        RuntimeError: there is no extension.
    """
    return str(_loaded().instruction_set())


def why_not_amx() -> str:
    """Returns why no products run on tiles here; empty where they do.

    Raises:
        RuntimeError: there is no extension.
    """
    return str(_loaded().why_not_amx())


def stored_instruction_sets() -> list[str]:
    """Returns the instruction sets with kernels for weights of fewer bits, the fastest first."""
    return [] if _C is None else list(_C.stored_instruction_sets())


def stored_instruction_set(storage: str) -> str:
    """Returns the instruction set in use for weights of fewer bits.

    Args:
        storage: "int8", "bfloat16" or "float16".

    Raises:
        RuntimeError: there is no extension.
    """
    return str(_loaded().stored_instruction_set(storage))


def set_stored_instruction_set(name: str) -> None:
    """Makes every later call of a quantized module use one instruction set for all that it serves.

    Args:
        name: one of `stored_instruction_sets()`; "auto", the fastest, as at first; or
            "amx_int8_twin", the kernels of "amx_int8" on any machine, slowly, to test them.

    Raises:
        ValueError: this machine does not run it.
        RuntimeError: there is no extension.
    """
    _loaded().set_stored_instruction_set(name)


def serving(dtype: torch.dtype) -> tuple[str, str]:
    """Returns the instruction sets for a dtype: for most layers, and where its tiles pay.

    Tiles pay for bfloat16 from 256 inputs and units together on; for float16 and float32 from 16
    rows and 128 units on, with 256 and 384 inputs and units together; and for float32 in three
    parts in gated cells of at most 2^20 weights a recurrence.

    Raises:
        RuntimeError: there is no extension, or no kernel for the dtype.
    """
    small, large = _loaded().serving(str(dtype).removeprefix("torch."))
    return str(small), str(large)


def product_rate(instruction_set: str, dtype: torch.dtype) -> float:
    """Returns the FLOP/s of products on one thread whose operands lie near; 0 if not served.

    Raises:
        RuntimeError: there is no extension, or no kernel for the dtype.
    """
    return float(_loaded().product_rate(instruction_set, str(dtype).removeprefix("torch.")))


def set_instruction_set(name: str) -> None:
    """Makes every later call use one instruction set for all dtypes that it serves.

    Args:
        name: one of `instruction_sets()`; "auto", the fastest for each call, as at first; or
            "amx_twin", the kernels of "amx" with tiles in plain C++, for tests.

    Raises:
        ValueError: this machine does not run it.
        RuntimeError: there is no extension.
    """
    _loaded().set_instruction_set(name)


def _loaded() -> ModuleType:
    if _C is None:
        raise RuntimeError(_REASON)
    return _C


def _cuda_loaded() -> ModuleType:
    if _CUDA is None:
        raise RuntimeError(_CUDA_REASON)
    return _CUDA


# What torch.compiler.assume_constant_result does, without the import of the compiler, which cannot
# look into the extensions: what a device can do is the same at every call.
why_cuda_unavailable._dynamo_marked_constant = True  # type: ignore[attr-defined]
largest_kept._dynamo_marked_constant = True  # type: ignore[attr-defined]
