# SPDX-License-Identifier: MIT
"""What a search returns, and how sequences of different lengths are compared."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Hypotheses(NamedTuple):
    """Target sequences of B source sentences, n for each, the best first unless drawn.

    A place that nothing reached has length 0, score and log_prob -inf, and holds padding.
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
        max_length: longest sequence.
        device: where scores are made.

    Raises:
        ValueError: there is no normalization of this name.
    """

    def __init__(
        self, name: str, penalty: float, max_length: int, device: torch.device | None
    ) -> None:
        if name not in NORMALIZATIONS:
            raise ValueError(f"normalization: expected one of {(*NORMALIZATIONS,)}, got {name!r}")
        # One table, so that a score has the same bits wherever it is made.
        divisors = [NORMALIZATIONS[name](length, penalty) for length in range(1, max_length + 1)]
        self._divisors = torch.tensor([1.0, *divisors], dtype=torch.float32, device=device)
        # From each length on, the largest: what an unfinished sequence may come to be divided by.
        self._largest = self._divisors.flip(0).cummax(0).values.flip(0)

    def score(self, log_probs: Tensor, lengths: Tensor | int) -> Tensor:
        """Returns the scores of sequences of these lengths."""
        return log_probs / self._divisors[lengths]

    def attainable(self, log_probs: Tensor, length: int) -> Tensor:
        """Returns the best score that sequences still unfinished at a length can end with."""
        return log_probs / self._largest[length + 1]


def sum_in_order(token_log_probs: Tensor) -> Tensor:
    """Returns sums over the last axis with the roundings of a search, which adds step by step."""
    total = token_log_probs.new_zeros(token_log_probs.shape[:-1])
    for step in token_log_probs.unbind(-1):
        total = total + step
    return total
