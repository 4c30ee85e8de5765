# SPDX-License-Identifier: MIT
"""How well a text is predicted."""

from __future__ import annotations

import math


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
