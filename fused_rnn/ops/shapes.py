# SPDX-License-Identifier: MIT
"""The shapes and dtypes of what a layer returns and keeps."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

# S: lstm i f g o c; gru r z n q with q = h W_hn^T + b_hn; the textbook gru r z n; a plain RNN
# reads all it needs from y.
_TAPE_SLOTS = {"rnn_tanh": 0, "rnn_relu": 0, "gru": 4, "gru_reset_before": 3, "lstm": 5}


class LayerOutput(NamedTuple):
    """The results of one layer; `cn` is None for cells without a cell state."""

    y: Tensor  # (T, B, N, P)
    hn: Tensor  # (N, B, P)
    cn: Tensor | None  # (N, B, H)


def batch_size(x: Tensor, lengths: Tensor | None) -> int:
    """The batch size B of x, (T, B, I), or of compact rows, (rows, I), which come with lengths."""
    return x.shape[1] if x.dim() == 3 or lengths is None else lengths.shape[0]


def sum_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type states and sums are kept in: float32 for the half types."""
    return torch.float32 if dtype.is_floating_point and dtype.itemsize < 4 else dtype


def tape_dtype(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """The type of saved values: that of sums on the CPU, that of the input elsewhere."""
    return sum_dtype(dtype) if _keeps_sums(device) else dtype


def tape_slots(cell: str, dtype: torch.dtype, device: torch.device) -> int:
    """The number of values saved for each unit and step.

    On the CPU, cells whose gradients use h itself keep it, behind the others, where y is a rounded
    half type. Elsewhere they read it from y.
    """
    kept = _keeps_sums(device) and cell != "lstm" and dtype.itemsize == 2
    return _TAPE_SLOTS[cell] + kept


def _keeps_sums(device: torch.device) -> bool:
    return device.type in ("cpu", "meta")


def contiguous(*tensors: Tensor | None) -> list[Any]:
    """The tensors as the compiled ops take them."""
    return [None if t is None else t.contiguous() for t in tensors]
