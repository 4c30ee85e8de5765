# SPDX-License-Identifier: MIT
"""What a search asks of rows of logits: log-probabilities, and the largest in a sure order.

On the CPU a kernel of this package answers, elsewhere PyTorch.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from . import native, ops

_CHUNK = 32
_SIGNLESS, _LOW = 0x7FFFFFFF, 0xFFFFFFFF


class LogProbs(NamedTuple):
    """Log-probabilities, (N, V), and the largest logit of each row, (N,)."""

    values: Tensor
    peaks: Tensor


class Top(NamedTuple):
    """The largest values of each row, in falling order, and where they are."""

    values: Tensor  # (N, k)
    indices: Tensor  # (N, k)


class Best(NamedTuple):
    """The largest log-probabilities of each row, in falling order, and where they are."""

    values: Tensor  # (N, k)
    indices: Tensor  # (N, k)
    peaks: Tensor  # the largest logit of each row, (N,)


def log_softmax(logits: Tensor) -> LogProbs:
    """Returns the log-probabilities of logits, float32, (N, V), and each row's largest logit.

    Where that is no finite number the row's log-probabilities have no meaning.
    """
    if _has_kernel(logits):
        return LogProbs(*ops.log_softmax(logits))
    return LogProbs(logits.log_softmax(-1), logits.amax(-1))


def top(values: Tensor, k: int) -> Top:
    """Returns the k largest of each row of values, float32, (N, V), k at most V.

    Of equal values the lowest index comes first. Where a row holds NaN, any of its indices may.
    """
    if _has_kernel(values):
        return Top(*ops.top(values, k))
    return _top(values, k)


def likeliest(values: Tensor) -> Tensor:
    """Returns where the largest of each row of values, float32, (N, V), is, (N,).

    Of equal values it is the first.
    """
    if _has_kernel(values):
        return ops.top(values, 1)[1].squeeze(1)
    return values.argmax(-1)


def best(logits: Tensor, k: int, excluded: Tensor | None = None) -> Best:
    """Returns the k largest log-probabilities of each row of logits, float32, (N, V).

    Of equal ones the lowest index comes first. Where a row's largest logit is no finite number,
    the row's answer has no meaning.

    Args:
        logits: float32, (N, V).
        k: at most V.
        excluded: indices whose log-probability counts as -infinity. Default None: there are none.
    """
    if _has_kernel(logits):
        return Best(*ops.best(logits, k, excluded))
    log_probs, peaks = log_softmax(logits)
    if excluded is not None:
        log_probs.index_fill_(1, excluded, -torch.inf)
    return Best(*top(log_probs, k), peaks)


def _has_kernel(rows: Tensor) -> bool:
    if torch.compiler.is_compiling():
        return False
    suits = rows.device.type == "cpu" and rows.dtype == torch.float32 and rows.is_contiguous()
    return suits and native.why_unavailable() is None


def _top(values: Tensor, k: int) -> Top:
    """The same by PyTorch.

    Long rows are looked through in chunks: the k largest lie in the k chunks with the largest
    maxima, so that the slow selection sees few numbers. `torch.topk` promises no order of equal
    values; this keeps one.
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
