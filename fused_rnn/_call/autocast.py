# SPDX-License-Identifier: MIT
"""Autocast at a module's door: one dtype in, one dtype out, for every layer and cell."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


def _has_autocast(kind: str) -> bool:
    # PyTorch 2.11 cannot trace the question. Of what it compiles for, meta alone has none.
    if torch.compiler.is_compiling():
        return kind != "meta"
    return torch.amp.is_autocast_available(kind)


def autocast_dtype(device: torch.device) -> torch.dtype | None:
    """The dtype autocast asks for on this device now; None where it is off."""
    kind = device.type
    if not _has_autocast(kind) or not torch.is_autocast_enabled(kind):
        return None
    return torch.get_autocast_dtype(kind)


def lower(tensors: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """The tensors in `dtype`, but for float64 and integers, which autocast leaves alone."""
    return [
        t.to(dtype) if t.dtype.is_floating_point and t.dtype != torch.float64 else t
        for t in tensors
    ]


class Lowered(NamedTuple):
    """The tensors that a layer or cell computes with under autocast."""

    x: Tensor
    states: Sequence[Tensor]
    weights: list[Tensor]


def lowered(x: Tensor, states: Sequence[Tensor], weights: Sequence[Tensor]) -> Lowered | None:
    """All tensors in the dtype autocast asks for, to compute with it off; None where it is off."""
    if not torch._C._is_any_autocast_enabled():
        return None
    dtype = autocast_dtype(x.device)
    if dtype is None:
        return None
    x, *weights = lower((x, *weights), dtype)
    return Lowered(x, lower(states, dtype), weights)
