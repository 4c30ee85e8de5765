# SPDX-License-Identifier: MIT
"""The tasks of the kernels in one pass: contiguous tensors and sizes, checked before."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ...ops import GATES, Weights, tape_slots

# The gate gradients a step produces: n r z q for the GRU, n r z for the textbook one.
GRADS = GATES | {"gru": 4}
# What a GPU's tape holds of each unit and step.
SLOTS = {cell: tape_slots(cell, torch.float32, torch.device("cuda")) for cell in GATES}


class Forward(NamedTuple):
    """A forward pass, the projection of its input done."""

    cell: str
    reverse: Sequence[int]
    xg: Tensor  # (T, B, N, G, H)
    w_hh: Tensor  # (N, G*H, H)
    bias: Tensor | None  # (N, G*H)
    h0: Tensor | None  # (N, B, H)
    c0: Tensor | None  # (N, B, H)
    lengths: Tensor | None  # (B,)
    resets: Tensor | None  # (T, B)
    y: Tensor  # (T, B, N, H)
    hn: Tensor  # (N, B, H)
    cn: Tensor | None  # (N, B, H)
    tape: Tensor | None  # (T, B, N, S, H)


class Step(NamedTuple):
    """A forward pass of one step."""

    cell: str
    reverse: Sequence[int]
    x: Tensor  # (B, I)
    weights: Sequence[Weights]  # of each recurrence
    h0: Tensor | None  # (N, B, H)
    c0: Tensor | None  # (N, B, H)
    lengths: Tensor | None  # (B,)
    resets: Tensor | None  # (B,)
    y: Tensor  # (B, N, H)
    hn: Tensor  # (N, B, H)
    cn: Tensor | None  # (N, B, H)
    tape: Tensor | None  # (B, N, S, H)


class Backward(NamedTuple):
    """A backward pass, up to the gradients of the gates."""

    cell: str
    reverse: Sequence[int]
    dy: Tensor | None  # (T, B, N, H)
    dhn: Tensor | None  # (N, B, H)
    dcn: Tensor | None  # (N, B, H)
    w_hh: Tensor  # (N, G*H, H)
    h0: Tensor | None  # (N, B, H)
    c0: Tensor | None  # (N, B, H)
    lengths: Tensor | None  # (B,)
    resets: Tensor | None  # (T, B)
    y: Tensor  # (T, B, N, H)
    tape: Tensor | None  # (T, B, N, S, H)
    dg: Tensor  # (T, B, N, D, H)
    dh0: Tensor | None  # (N, B, H)
    dc0: Tensor | None  # (N, B, H)


def sizes(a: Forward | Backward) -> tuple[int, int, int, int]:
    """The sizes T, B, N, H of a pass."""
    steps, batch, count, hidden = a.y.shape
    return steps, batch, count, hidden


def reverse_bits(reverse: Sequence[int]) -> int:
    """A number whose bit n is set where recurrence n walks backward in time."""
    return sum(int(bool(back)) << n for n, back in enumerate(reverse))
