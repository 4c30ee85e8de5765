# SPDX-License-Identifier: MIT
"""The largest of each row, in one order on every device: of equal ones, the lowest index first."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

_CHUNK = 32
_SIGNLESS, _LOW = 0x7FFFFFFF, 0xFFFFFFFF


class Top(NamedTuple):
    """The largest values of each row, in falling order, and where they are."""

    values: Tensor  # (N, k)
    indices: Tensor  # (N, k)


def top(values: Tensor, k: int) -> Top:
    """Returns the k largest of each row of values, float32, (N, V), k at most V.

    Long rows are looked through in chunks: the k largest lie in the k chunks with the largest
    maxima, so that the slow selection sees few numbers. `torch.topk` promises no order of equal
    values; this does. Where a row holds NaN, any of its indices may come.
    """
    rows, size = values.shape
    chunks = -(-size // _CHUNK)
    if chunks <= 2 * k:
        index = torch.arange(size, device=values.device).expand(rows, size)
        return _ranked(values, values, index, k)
    even = size // _CHUNK * _CHUNK
    maxima = values[:, :even].unflatten(1, (-1, _CHUNK)).amax(-1)
    if even < size:
        maxima = torch.cat((maxima, values[:, even:].amax(-1, keepdim=True)), 1)
    places = torch.arange(chunks, device=values.device).expand(rows, chunks)
    _, chosen = _ranked(maxima, maxima, places, k)
    within = torch.arange(_CHUNK, device=values.device)
    index = (chosen.unsqueeze(2) * _CHUNK + within).flatten(1)  # (N, k * chunk)
    some = values.gather(1, index.clamp(max=size - 1))
    if even < size:
        some = some.masked_fill(index >= size, -torch.inf)
    return _ranked(values, some, index, k)


def _ranked(values: Tensor, some: Tensor, index: Tensor, k: int) -> Top:
    """The k largest of some values, whose places in `values` are given."""
    # A float's bits, as an integer that has its order; -0.0 is made 0.0.
    bits = (some + 0.0).view(torch.int32)
    bits = bits ^ ((bits >> 31) & _SIGNLESS)
    # Values above, places below, the lowest first; no two keys are equal.
    keys = (bits.to(torch.int64) << 32) - index
    best = (-keys.topk(k, -1).values & _LOW).clamp(max=values.size(1) - 1)
    return Top(values.gather(1, best), best)
