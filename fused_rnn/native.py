# SPDX-License-Identifier: MIT
"""The compiled extensions: whether they are there, how they were built, what they would run."""

from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any, NamedTuple

import torch

from . import ops  # noqa: F401  # the schemas come before the kernels

_C: ModuleType | None
_REASON: str | None = None
try:
    _C = import_module("fused_rnn._C")
except ImportError as error:
    _C = None
    _REASON = f"the extension fused_rnn._C cannot be loaded ({error})"
else:
    # Only OpenMP promises that all parts of a parallel region run at once, which kernels that
    # meet at barriers need; elsewhere they run on one thread.
    _C.set_concurrent_regions("ATen parallel backend: OpenMP" in torch.__config__.parallel_info())

# The CUDA kernels, which need the CUDA build of torch that they were linked with.
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


class CudaDevice(NamedTuple):
    """What a plan of the CUDA kernels depends on besides the shape."""

    processors: int
    shared_bytes: int  # that one block may ask for
    cluster: int = 1  # blocks of a cluster at most; 1 where there are none


def why_unavailable() -> str | None:
    """Returns why the compiled CPU kernels cannot run here, or None if they can."""
    return _REASON


@cache
def why_cuda_unavailable() -> str | None:
    """Returns why the CUDA kernels cannot run here, or None if they can."""
    if _CUDA_REASON is not None:
        return _CUDA_REASON
    built = str(_cuda_build_info()["CUDA architectures"])
    for index in range(torch.cuda.device_count()):
        major, minor = torch.cuda.get_device_capability(index)
        if not any(_runs_on(name, major, minor) for name in built.split()):
            found = f"device {index} has compute capability {major}.{minor}"
            return f"its CUDA kernels were built for {built}, {found}"
    return None


def _cuda_build_info() -> dict[str, str]:
    return {} if _CUDA is None else dict(_CUDA.build_info())


def _runs_on(architecture: str, major: int, minor: int) -> bool:
    """Whether a device runs what nvcc compiled for an architecture, such as "80" or "90a".

    Code runs on later devices of its major version, code with an "a" only where it was meant to:
    "CUDA C++ Programming Guide", binary compatibility and feature sets.
    """
    built = divmod(int(architecture.removesuffix("a")), 10)
    if architecture.endswith("a"):
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
