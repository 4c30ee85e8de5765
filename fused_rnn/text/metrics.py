# SPDX-License-Identifier: MIT
"""Measures of how well a text is predicted, and of how near a translation comes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from .tokenizers import between_spaces


def perplexity(loss_sum: float, count: int) -> float:
    """Returns exp(loss_sum / count), the perplexity of a text; infinite where that overflows.

    Args:
        loss_sum: negative log-likelihood (natural logarithm) summed over the predicted tokens.
        count: number of predicted tokens.

    Raises:
        ValueError: no token was predicted.
    """
    if count <= 0:
        raise ValueError(f"count: expected at least one predicted token, got {count}")
    try:
        return math.exp(loss_sum / count)
    except OverflowError:
        return math.inf


def bleu(prediction: str | Sequence[str], label: str | Sequence[str], k: int = 2) -> float:
    """Returns the BLEU of one sentence as *Dive into Deep Learning* defines it, from 0 to 1.

    exp(min(0, 1 - len_label / len_prediction)) * prod_{n=1}^{k} p_n^(1/2^n), p_n being the part of
    the prediction's n-grams that are in the label, each counted at most as often as there. It has
    neither the weights nor the scale of Papineni et al. (2002) and sacrebleu. Orders above the
    length of the prediction, where the first edition divides by zero, are left out as in the
    second; an empty sequence of tokens scores 0.

    Args:
        prediction: tokens, or a text that spaces part into tokens.
        label: the same of the sentence to be met.
        k: longest n-gram counted. Default 2, as in the book.

    Raises:
        ValueError: k is below 1.
    """
    if k < 1:
        raise ValueError(f"k: expected at least 1, got {k}")
    ours, theirs = _split(prediction), _split(label)
    if not ours:
        return 0.0
    score = math.exp(min(0.0, 1 - len(theirs) / len(ours)))
    for n in range(1, min(k, len(ours)) + 1):
        found = Counter(tuple(ours[i : i + n]) for i in range(len(ours) - n + 1))
        known = Counter(tuple(theirs[i : i + n]) for i in range(len(theirs) - n + 1))
        score *= ((found & known).total() / found.total()) ** (0.5**n)
    return score


def _split(tokens: str | Sequence[str]) -> list[str]:
    return between_spaces(tokens) if isinstance(tokens, str) else list(tokens)
