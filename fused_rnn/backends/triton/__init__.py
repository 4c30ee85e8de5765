# SPDX-License-Identifier: MIT
"""The Triton backend: why it cannot run, and its ops, which import Triton at their first call."""

import functools
from typing import Any

import torch

from ...ops import PAIRS
from ..backend import Backend, Query
from .configurations import TABLE, Block

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# A launch takes their directions as the bits of one number.
MOST_RECURRENCES = 62
# Versions of Triton that build every kernel within its limits: the compiler's choices are its own,
# and another one's unseen. 2.14 of torch brings the newest.
_OLDEST, _NEWEST = (3, 6), (3, 8)
# A device's compute capability.
OLDEST_CAPABILITY = (8, 0)


@functools.cache
def why_unavailable(index: int = 0) -> str | None:
    """Returns why no kernel can run on a CUDA device, or None if they can."""
    if torch.version.hip is not None:
        return "its kernels are made for NVIDIA GPUs, this PyTorch is built for AMD's"
    if not torch.cuda.is_available():
        return "PyTorch sees no CUDA device"
    if torch.cuda.get_device_capability(index) < OLDEST_CAPABILITY:
        return "its kernels need compute capability {}.{}".format(*OLDEST_CAPABILITY)
    try:
        import triton
    except ImportError as error:
        return f"Triton cannot be imported ({error})"
    return _why_not_version(triton.__version__)


def _why_not_version(version: str) -> str | None:
    if _OLDEST <= tuple(int(part) for part in version.split(".")[:2]) <= _NEWEST:
        return None
    tested = " to ".join(f"{major}.{minor}" for major, minor in (_OLDEST, _NEWEST))
    return f"its kernels were tested with Triton {tested}, {version} is installed"


def _why_not(query: Query) -> str | None:
    if query.device != "cuda":
        return f"its kernels run on CUDA devices, not on {query.device}"
    if query.dtype not in DTYPES:
        return f"its kernels compute in float32, bfloat16 and float16, not {query.dtype}"
    if query.varied:
        return "it has no cells with options"
    if query.projection:
        return "its LSTM has no projection of the output"
    if len(query.reverse) > MOST_RECURRENCES:
        return f"it runs {MOST_RECURRENCES} recurrences side by side, not more"
    return _why_unavailable(query.cuda_index)


def _why_unavailable(index: int) -> str | None:
    return why_unavailable(index)


# As in `extensions`: not for the compiler to look into.
_why_unavailable._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _most_units(query: Query) -> int:
    forms = TABLE[8 * query.dtype.itemsize].items()
    return max(most for most, form in forms if isinstance(form, Block) or form.resident)


TRITON = Backend("triton", _why_not, most_units=_most_units, is_fused=True)


def _forward(*arguments: Any) -> Any:
    from .passes import forward

    with torch.cuda.device_of(arguments[0]):
        return forward(*arguments)


def _backward(*arguments: Any) -> Any:
    from .passes import backward

    with torch.cuda.device_of(arguments[3]):
        return backward(*arguments)


def register(key: str) -> torch.library.Library:
    """Makes the kernels those of both ops for one dispatch key, as long as the result lives."""
    library = torch.library.Library("fused_rnn", "IMPL")
    library.impl(PAIRS["triton"].forward, _forward, key)
    library.impl(PAIRS["triton"].backward, _backward, key)
    return library


_LIBRARY = register("CUDA")
