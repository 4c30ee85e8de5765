# SPDX-License-Identifier: MIT
"""Selection from logits for a search: log-probabilities, the largest in a sure order, survivors.

On the CPU a kernel of this package answers, elsewhere PyTorch. B sentences have W rows each at a
step, N = B * W, and K at the next one.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from .. import extensions, ops

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


class Notes(NamedTuple):
    """The notes of a beam search's steps: K hypotheses that live on and K that may have ended."""

    tokens: Tensor  # (T, B, K)
    parents: Tensor  # (T, B, K), place among the live ones a step earlier
    gains: Tensor  # (T, B, K), log-probability of the token
    ended: Tensor  # (T, B, K), log-probability of what finished, -inf elsewhere
    end_parents: Tensor  # (T, B, K)
    end_gains: Tensor  # (T, B, K)


class Tally(NamedTuple):
    """A tally over all steps of a beam search, kept in place."""

    ended: Tensor  # hypotheses of each sentence that have ended, (B,)
    broken: Tensor  # whether a row that matters has had logits that are no numbers, ()


class Advanced(NamedTuple):
    """The results of a step of a beam search, from which the next one goes on."""

    live: Tensor  # log-probabilities of what lives on, (B, K)
    rows: Tensor  # that it came from, (B * K,)
    tokens: Tensor  # its last ones, (B * K,)


class Outlived(NamedTuple):
    """The state of rows that grow independently, which a step leaves to the next one."""

    alive: Tensor  # rows whose next token is their own, bool, (N,)
    reached: Tensor  # rows that have run into no dead end, bool, (N,)
    lengths: Tensor  # (N,)


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


def advance(
    found: Best,
    live: Tensor,
    tally: Tally,
    notes: Notes,
    step: int,
    *,
    eos: int | None,
    retire: bool,
) -> Advanced:
    """Returns what lives on of a step of a beam search, and notes how it came about.

    Args:
        found: the likeliest continuations of each row, (N, at most 2K): 2K but for lack of tokens.
        live: log-probabilities of the rows so far, (B, W).
        tally: brought up to date.
        notes: with room for the step.
        step: how many have been noted.
        eos: the token that ends a hypothesis; None: nothing does.
        retire: whether nothing of a sentence lives on once K of its hypotheses have ended.
    """
    if _on_kernels(live):
        return Advanced(*ops.advance(*found, live, *tally, *notes, step, eos, retire))
    return _advance(found, live, tally, notes, step, eos, retire)


def outlive(
    found: Best, before: Outlived, limits: Tensor | None, any_broken: Tensor, eos: int | None
) -> Outlived:
    """Returns what a step leaves of rows that grow independently.

    Args:
        found: what was chosen for each row, (N, 1).
        before: the rows so far.
        limits: most tokens of each, (N,); None: any number.
        any_broken: made true, in place, where logits of rows that matter were no numbers.
        eos: the token that ends a row; None: nothing does.
    """
    if _on_kernels(before.alive):
        return Outlived(*ops.outlive(*found, *before, limits, any_broken, eos))
    return _outlive(found, before, limits, any_broken, eos)


def broken(peaks: Tensor, alive: Tensor) -> Tensor:
    """Returns whether logits of rows that matter, bool, (N,), are no numbers, by their peaks."""
    # NaN is not below infinity, either.
    return (alive & ~(peaks < torch.inf)).any()


def _on_kernels(tensor: Tensor) -> bool:
    if torch.compiler.is_compiling():
        return False
    return tensor.device.type == "cpu" and extensions.why_unavailable() is None


def _has_kernel(rows: Tensor) -> bool:
    return _on_kernels(rows) and rows.dtype == torch.float32 and rows.is_contiguous()


def _top(values: Tensor, k: int) -> Top:
    """The result of `top`, by PyTorch's operations.

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


def _advance(
    found: Best,
    live: Tensor,
    tally: Tally,
    notes: Notes,
    step: int,
    eos: int | None,
    retire: bool,
) -> Advanced:
    """The result of `advance`, by PyTorch's operations."""
    (B, W), K = live.shape, notes.tokens.size(2)
    missing = -(-2 * K // W) - found.values.size(1)
    if missing > 0:
        values = F.pad(found.values, (0, missing), value=-torch.inf)
        found = found._replace(values=values, indices=F.pad(found.indices, (0, missing)))
    alive = (live > -torch.inf).flatten()
    tally.broken.logical_or_(broken(found.peaks, alive))
    useless = ~found.peaks.isfinite().unsqueeze(1)
    totals = live.reshape(-1, 1).masked_fill(useless, -torch.inf)
    totals = (totals + found.values.masked_fill(useless, 0)).view(B, -1)  # (B, W * each)
    totals, order = totals.sort(dim=1, descending=True, stable=True)
    # All that can matter: k at most end, k live on.
    totals, order = totals[:, : 2 * K], order[:, : 2 * K]
    parents = order.div(found.values.size(1), rounding_mode="floor")
    tokens = found.indices.view(B, -1).gather(1, order)
    gains = found.values.view(B, -1).gather(1, order)
    if eos is not None:
        ends = tokens == eos
        notes.ended[step] = totals[:, :K].masked_fill(~ends[:, :K], -torch.inf)
        notes.end_parents[step] = parents[:, :K]
        notes.end_gains[step] = gains[:, :K]
        totals = totals.masked_fill(ends, -torch.inf)
        tally.ended.add_((notes.ended[step] > -torch.inf).sum(1))
    live, kept = totals.sort(dim=1, descending=True, stable=True)
    live, kept = live[:, :K], kept[:, :K]
    notes.tokens[step] = tokens.gather(1, kept)
    notes.parents[step] = parents.gather(1, kept)
    notes.gains[step] = gains.gather(1, kept)
    if retire and eos is not None:
        live = live.masked_fill((tally.ended >= K).unsqueeze(1), -torch.inf)
    base = torch.arange(0, B * W, W, device=live.device).unsqueeze(1)
    rows = (notes.parents[step] + base).flatten()
    return Advanced(live, rows, notes.tokens[step].flatten())


def _outlive(
    found: Best, before: Outlived, limits: Tensor | None, any_broken: Tensor, eos: int | None
) -> Outlived:
    """The result of `outlive`, by PyTorch's operations."""
    alive, reached, lengths = before
    any_broken.logical_or_(broken(found.peaks, alive))
    possible = (found.values.squeeze(1) > -torch.inf) & found.peaks.isfinite()
    reached = reached & (possible | ~alive)
    alive = alive & possible
    lengths = lengths + alive
    if eos is not None:
        alive = alive & (found.indices.squeeze(1) != eos)
    if limits is not None:
        alive = alive & (lengths < limits)
    return Outlived(alive, reached, lengths)
