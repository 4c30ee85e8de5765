# SPDX-License-Identifier: MIT
"""The classic predictor of text, to set a neural one against."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import NamedTuple

_Counts = dict[tuple[int, ...], Counter[int]]


class _Level(NamedTuple):
    """The statistics of contexts of one length."""

    counts: _Counts
    totals: dict[tuple[int, ...], int]
    # Of the probability, the part that is left to the next shorter context.
    left: dict[tuple[int, ...], float]
    discounts: tuple[float, float, float, float]


class NgramModel:
    """An interpolated n-gram model with modified Kneser-Ney smoothing (Chen and Goodman 1999).

    p_k(w | h) = (c(h w) - D(c(h w)) + left(h) p_{k-1}(w | h')) / c(h), h' being h without its
    oldest token and p_0 uniform. c counts in the longest contexts, and in shorter ones the number
    of different tokens seen before h w; D(1), D(2), D(3 and more) come from counts of counts.

    Args:
        tokens: the numbers of the text to learn from.
        vocab_size: numbers run from 0 to vocab_size - 1, V.
        order: longest n-gram counted; a prediction looks at order - 1 tokens. Default 5.
    """

    def __init__(self, tokens: Sequence[int], vocab_size: int, *, order: int = 5) -> None:
        if order < 1:
            raise ValueError(f"order: expected at least 1, got {order}")
        self.order = order
        self.vocab_size = vocab_size
        counts = [_count(tokens, order)]
        for _ in range(order - 1):
            counts.append(_continuations(counts[-1]))
        self._levels = [_level(level) for level in reversed(counts)]

    def probability(self, history: Sequence[int], token: int) -> float:
        """Returns how likely a token is after a history, of which order - 1 tokens count."""
        p = 1.0 / self.vocab_size
        for length, level in enumerate(self._levels[: len(history) + 1]):
            context = tuple(history[len(history) - length :])
            total = level.totals.get(context)
            if total is None:
                break
            count = level.counts[context][token]
            p = (count - level.discounts[min(count, 3)] + level.left[context] * p) / total
        return p

    def loss_sum(self, tokens: Sequence[int]) -> float:
        """Returns the negative log-likelihood of a text's tokens after the first, summed."""
        reach = self.order - 1
        return -math.fsum(
            math.log(self.probability(tokens[max(0, i - reach) : i], tokens[i]))
            for i in range(1, len(tokens))
        )


def _count(tokens: Sequence[int], order: int) -> _Counts:
    """Counts of n-grams of one length, by context."""
    counts: _Counts = defaultdict(Counter)
    for i in range(order - 1, len(tokens)):
        counts[tuple(tokens[i - order + 1 : i])][tokens[i]] += 1
    return dict(counts)


def _continuations(longer: _Counts) -> _Counts:
    """For each context one token shorter: in how many ways each token continues it."""
    counts: _Counts = defaultdict(Counter)
    for context, followers in longer.items():
        counts[context[1:]].update(followers.keys())
    return dict(counts)


def _level(counts: _Counts) -> _Level:
    seen = Counter(count for followers in counts.values() for count in followers.values())
    # At least 1, so that a text too small to show some count divides by nothing that is zero.
    n1, n2, n3, n4 = (max(seen[k], 1) for k in (1, 2, 3, 4))
    y = n1 / (n1 + 2 * n2)
    estimates = ((1, 1 - 2 * y * n2 / n1), (2, 2 - 3 * y * n3 / n2), (3, 3 - 4 * y * n4 / n3))
    # Something must be left to shorter contexts, and no count may turn negative.
    one, two, three = (min(max(d, 0.05), 0.95 * count) for count, d in estimates)
    discounts = (0.0, one, two, three)
    totals = {context: followers.total() for context, followers in counts.items()}
    left = {
        context: sum(discounts[min(count, 3)] for count in followers.values())
        for context, followers in counts.items()
    }
    return _Level(counts, totals, left, discounts)
