# SPDX-License-Identifier: MIT
"""The backend of compiled kernels, for the CPU and for CUDA devices."""

import torch

from .. import extensions
from .backend import Backend, Query


def _why_not(query: Query) -> str | None:
    if query.device not in ("cpu", "meta", "cuda"):
        return f"its kernels run on the CPU and on CUDA devices, not on {query.device}"
    if query.dtype not in extensions.DTYPES:
        return f"its kernels compute in float64, float32, bfloat16 and float16, not {query.dtype}"
    if query.device != "cuda":
        return extensions.why_unavailable()
    if query.varied:
        return "its kernels for cells with options run on the CPU alone"
    if query.projection:
        return "its LSTM has no projection of the output on CUDA devices"
    if len(query.reverse) > extensions.CUDA_RECURRENCES:
        return f"it runs {extensions.CUDA_RECURRENCES} recurrences side by side on CUDA, not more"
    return extensions.why_cuda_unavailable(query.cuda_index)


def _most_units(query: Query) -> int:
    return extensions.largest_kept(query.cell, query.dtype, query.cuda_index)


def _takes_compact_rows(device: torch.device) -> bool:
    # A graph serves all lengths, and pads them.
    return device.type == "cpu" and not torch.compiler.is_compiling()


NATIVE = Backend(
    "native",
    _why_not,
    takes_compact_rows=_takes_compact_rows,
    takes_prepacked=True,
    most_units=_most_units,
    is_fused=True,
)
