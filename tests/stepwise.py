# SPDX-License-Identifier: MIT
"""A layer one row and one step at a time, by the reference's equations: states given and taken."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from fused_rnn.ops import split
from fused_rnn.reference.cells import STEPS


class Found(NamedTuple):
    """What a call returns; the states (h,) or (h, c)."""

    y: Tensor  # (T, B, D*P)
    last: tuple[Tensor, ...]  # (L*D, B, .)
    every: tuple[Tensor, ...]  # (T, L*D, B, .)


def run(
    layer: Any,
    x: Tensor,
    states: Sequence[Tensor],
    lengths: Sequence[int],
    marks: Tensor,
    at_marks: Sequence[Tensor],
) -> Found:
    """The outputs, final states and states of every step; no dropout.

    Args:
        x: (T, B, I).
        states: (L*D, B, .) of h and for the LSTM c.
        marks: (T, B) bool.
        at_marks: (T, L*D, B, .) of h and for the LSTM c.
    """
    reverse = layer._reverse()
    weights = layer._weights()
    per = len(weights) // layer.num_layers
    last, every = [], []
    for at in range(layer.num_layers):
        outputs = []
        for d, own in enumerate(split(weights[at * per : (at + 1) * per], len(reverse))):
            n = at * len(reverse) + d
            rows = [
                _row(
                    layer._cell(),
                    own,
                    x[:, b],
                    [state[n, b] for state in states],
                    lengths[b],
                    marks[:, b].tolist(),
                    [state[:, n, b] for state in at_marks],
                    backward=bool(reverse[d]),
                )
                for b in range(x.shape[1])
            ]
            every.append(
                [torch.stack(own, 1) for own in zip(*(row[0] for row in rows), strict=True)]
            )
            last.append([torch.stack(own) for own in zip(*(row[1] for row in rows), strict=True)])
            outputs.append(every[-1][0])
        x = torch.cat(outputs, -1)
    return Found(
        x,
        tuple(torch.stack(own) for own in zip(*last, strict=True)),
        tuple(torch.stack(own, 1) for own in zip(*every, strict=True)),
    )


def _row(
    cell: str,
    weights: Any,
    x: Tensor,
    given: list[Tensor],
    length: int,
    marks: list[bool],
    at_marks: list[Tensor],
    *,
    backward: bool,
) -> tuple[list[Tensor], list[Tensor]]:
    """The states after every step, (T, .) each, and the last ones."""
    steps, state = len(x), tuple(s.unsqueeze(0) for s in given)
    found = [[torch.zeros_like(s) for _ in range(steps)] for s in given]
    for t in reversed(range(length)) if backward else range(length):
        begins = t + 1 if backward else t
        if begins < length and marks[begins]:
            state = tuple(s[begins].unsqueeze(0) for s in at_marks)
        xg = F.linear(x[t].unsqueeze(0), weights.w_ih, weights.b_ih)
        state = STEPS[cell](xg, state, weights, 6)
        for own, s in zip(found, state, strict=True):
            own[t] = s.squeeze(0)
    return [torch.stack(own) for own in found], [s.squeeze(0) for s in state]
