# SPDX-License-Identifier: MIT
"""The results of a search, and the comparison of sequences of different lengths."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .constraints import Limits

_FLOAT32 = torch.finfo(torch.float32)


class Hypotheses(NamedTuple):
    """Target sequences of B source sentences, n for each, the best first unless drawn.

    T is max_length or, where each sentence has one of its own, the number of steps made. A place
    that nothing reached has length 0, score and log_prob -inf, and holds padding.
    """

    tokens: Tensor  # (B, n, T), `<eos>` included, then `<pad>`
    lengths: Tensor  # (B, n), `<eos>` counted
    scores: Tensor  # (B, n), log_probs normalised by length
    log_probs: Tensor  # (B, n), float32, of the sequence under the model
    token_log_probs: Tensor  # (B, n, T), zero past each length
    finished: Tensor  # (B, n), whether it ends in `<eos>`
    attention: Tensor | None  # (B, n, T, S), zero past each length


def _by_length(length: int, penalty: float) -> float:
    return float(length) ** penalty


def _by_gnmt(length: int, penalty: float) -> float:
    return ((5.0 + length) / 6.0) ** penalty


def _by_none(length: int, penalty: float) -> float:
    return 1.0


# Divisors of the log-probability of a sequence of some length, at least 1. "length": L^a, as
# *Dive into Deep Learning* has it; "gnmt": ((5 + L) / 6)^a (Wu et al. 2016).
NORMALIZATIONS: dict[str, Callable[[int, float], float]] = {
    "length": _by_length,
    "gnmt": _by_gnmt,
    "none": _by_none,
}


class Normalizer:
    """Scores of log-probabilities: log P / divisor(L).

    Args:
        name: one of NORMALIZATIONS.
        penalty: the exponent a.
        limits: longest sequences.
        device: where scores are made.

    Raises:
        ValueError: there is no normalization of this name, or with this penalty float32 cannot
            hold the divisor of the longest sequence.
    """

    def __init__(
        self, name: str, penalty: float, limits: Limits, device: torch.device | None
    ) -> None:
        if name not in NORMALIZATIONS:
            raise ValueError(f"normalization: expected one of {(*NORMALIZATIONS,)}, got {name!r}")
        if not math.isfinite(penalty):
            raise ValueError(f"length_penalty: expected a finite number, got {penalty}")
        self._by, self._penalty, self._device = NORMALIZATIONS[name], penalty, device
        self._longest = limits.longest
        numbers = [limits.longest] if limits.each is None else limits.each.tolist()
        # Of the longest sequence of each sentence, or of all.
        self._last = self._tensor([self._divisor(length) for length in numbers])
        # One table, so that a score has the same bits wherever it is made.
        self._table = self._tensor([1.0])

    def score(self, log_probs: Tensor, lengths: Tensor, longest: int) -> Tensor:
        """Returns the scores of sequences of these lengths, none above `longest`."""
        return log_probs / self._up_to(longest)[lengths]

    def score_at(self, log_probs: Tensor, length: int) -> Tensor:
        """Returns the scores of sequences of one length."""
        return log_probs / self._up_to(length)[length]

    def attainable(self, log_probs: Tensor, length: int) -> Tensor:
        """Returns the best score each sentence's sequences unfinished at a length can end with.

        Args:
            log_probs: of the best one, (B,).
            length: below the limit.
        """
        # Divisors rise or fall with the length: the largest to come is the next or the last.
        return log_probs / torch.maximum(self._up_to(length + 1)[length + 1], self._last)

    def _up_to(self, length: int) -> Tensor:
        """The divisors of sequences of no token, of one, and so on, at least to this length."""
        known = len(self._table)
        if known <= length:
            # In leaps: to a device, each takes a copy.
            end = min(max(length, 2 * known, 64), self._longest)
            new = self._tensor([self._divisor(n) for n in range(known, end + 1)])
            self._table = torch.cat((self._table, new))
        return self._table

    def _divisor(self, length: int) -> float:
        try:
            value = self._by(length, self._penalty)
        except OverflowError:
            value = math.inf
        if not _FLOAT32.tiny <= value <= _FLOAT32.max:
            raise ValueError(
                f"length_penalty: expected one for which float32 can hold the divisor of {length} "
                f"tokens, got {self._penalty}"
            )
        return value

    def _tensor(self, values: list[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float32, device=self._device)


def sum_in_order(token_log_probs: Tensor) -> Tensor:
    """Returns sums over the last axis with the roundings of a search, which adds step by step."""
    total = token_log_probs.new_zeros(token_log_probs.shape[:-1])
    for step in token_log_probs.unbind(-1):
        total = total + step
    return total
