# SPDX-License-Identifier: MIT
"""Minibatches for language models, as the first edition of *Dive into Deep Learning* draws them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import NamedTuple

from torch import Tensor


class Batch(NamedTuple):
    """Inputs and what is to be predicted from them: the same text, one token later."""

    x: Tensor  # (B, T)
    y: Tensor  # (B, T)


def random_batches(
    tokens: Tensor, batch_size: int, num_steps: int, *, rng: random.Random | None = None
) -> Iterator[Batch]:
    """Yields one pass over a text cut into pieces, which come in random order.

    Up to num_steps - 1 leading tokens are dropped at random, so that passes cut differently.
    Neighbouring minibatches have nothing to do with each other: state is not to be carried.

    Args:
        tokens: the text, (n,).
        batch_size: pieces per minibatch, B.
        num_steps: tokens per piece, T.
        rng: draws the offset, then the order. Default: Python's global generator.
    """
    _check(tokens, batch_size, num_steps)
    draw = rng if rng is not None else random
    tokens = tokens[draw.randint(0, num_steps - 1) :]
    starts = [i * num_steps for i in range((len(tokens) - 1) // num_steps)]
    draw.shuffle(starts)
    for first in range(0, len(starts) // batch_size * batch_size, batch_size):
        chosen = starts[first : first + batch_size]
        yield Batch(_rows(tokens, chosen, num_steps), _rows(tokens[1:], chosen, num_steps))


def sequential_batches(
    tokens: Tensor, batch_size: int, num_steps: int, *, rng: random.Random | None = None
) -> Iterator[Batch]:
    """Yields one pass over a text laid out in batch_size long rows, read from left to right.

    Up to num_steps leading tokens are dropped at random. Row i of a minibatch goes on where
    row i of the one before it ended: state is to be carried.

    Args:
        tokens: the text, (n,).
        batch_size: rows, B.
        num_steps: tokens of a row per minibatch, T.
        rng: draws the offset. Default: Python's global generator.
    """
    _check(tokens, batch_size, num_steps)
    draw = rng if rng is not None else random
    offset = draw.randint(0, num_steps)
    count = (len(tokens) - offset - 1) // batch_size * batch_size
    x = tokens[offset : offset + count].view(batch_size, -1)
    y = tokens[offset + 1 : offset + 1 + count].view(batch_size, -1)
    for first in range(0, x.size(1) // num_steps * num_steps, num_steps):
        yield Batch(x[:, first : first + num_steps], y[:, first : first + num_steps])


def least_tokens(batch_size: int, num_steps: int) -> int:
    """Returns the length of a text that is sure to give a minibatch, whatever the offset drawn."""
    return batch_size * num_steps + num_steps + 1


def _rows(tokens: Tensor, starts: list[int], num_steps: int) -> Tensor:
    """(B, T)"""
    return tokens.unfold(0, num_steps, 1)[starts]


def _check(tokens: Tensor, batch_size: int, num_steps: int) -> None:
    if batch_size < 1:
        raise ValueError(f"batch_size: expected at least 1, got {batch_size}")
    if num_steps < 1:
        raise ValueError(f"num_steps: expected at least 1, got {num_steps}")
    if tokens.dim() != 1:
        raise ValueError(f"tokens: expected one dimension, got shape {tuple(tokens.shape)}")
    if len(tokens) < least_tokens(batch_size, num_steps):
        raise ValueError(
            f"tokens: expected at least {least_tokens(batch_size, num_steps)} for minibatches of "
            f"{batch_size} rows of {num_steps} steps, got {len(tokens)}"
        )
