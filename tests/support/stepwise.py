# SPDX-License-Identifier: MIT
"""A layer one row and one step at a time, by the reference's equations: states given and taken."""

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

import fused_rnn
from fused_rnn.backends.reference.cells import STEPS
from fused_rnn.ops import split
from fused_rnn.testing import assert_within_budget


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


T, B, INPUTS, H = 7, 5, 3, 6
LENGTHS = [7, 0, 3, 5, 1]
KINDS: dict[str, Any] = {
    "rnn": (fused_rnn.FusedRNN, {}),
    "gru": (fused_rnn.FusedGRU, {}),
    "textbook": (fused_rnn.FusedGRU, {"reset_after": False}),
    "lstm": (fused_rnn.FusedLSTM, {}),
    "projected": (fused_rnn.FusedLSTM, {"proj_size": 4}),
}
FORMS: dict[str, Any] = {
    "one": {},
    "two both ways": {"num_layers": 2, "bidirectional": True},
    "reverse": {"direction": "reverse"},
    "without bias": {"bias": False, "num_layers": 2},
}


class Given:
    """A layer, a call's tensors, and what the layer makes of them, one row and step at a time."""

    found: list[Tensor]

    def __init__(self, kind: str, dtype: torch.dtype = torch.float32, **options: Any) -> None:
        torch.manual_seed(len(kind))
        make, own = KINDS[kind]
        self.layer = make(INPUTS, H, **own, **options).to(dtype)
        self.sizes = [self.layer.proj_size or H, H][: 2 if make is fused_rnn.FusedLSTM else 1]
        self.count = len(self.layer._reverse()) * self.layer.num_layers
        self.x = torch.randn(T, B, INPUTS, dtype=dtype)
        self.marks = torch.rand(T, B) < 0.4
        self.marks[0, 0] = self.marks[3, 0] = True
        self.states = [torch.randn(self.count, B, size, dtype=dtype) for size in self.sizes]
        self.at_marks = [torch.randn(T, self.count, B, size, dtype=dtype) for size in self.sizes]
        # Nobody reads those, whatever they hold.
        for state in self.at_marks:
            state.masked_fill_(~self.marks[:, None, :, None], torch.nan)

    def tensors(self) -> list[Tensor]:
        return [self.x, *self.states, *self.at_marks, *self.layer.parameters()]

    def call(self, lengths: Any = None, layer: Any = None, **options: Any) -> list[Tensor]:
        found = (self.layer if layer is None else layer)(
            self.x,
            form(self.states),
            lengths=lengths,
            resets=self.marks,
            **{"reset_states": form(self.at_marks), "return_states": True, **options},
        )
        return flat(found)

    def stepwise(self, dtype: torch.dtype, lengths: Any = None) -> "Given":
        """The same in another dtype, and `found` by steps."""
        twin = copy.copy(self)
        twin.layer = copy.deepcopy(self.layer).to(dtype)
        for name in ("states", "at_marks"):
            tensors = [s.detach().to(dtype) for s in getattr(self, name)]
            setattr(twin, name, [s.requires_grad_() for s in tensors])
        twin.x = self.x.detach().to(dtype).requires_grad_()
        found = run(twin.layer, twin.x, twin.states, lengths or [T] * B, self.marks, twin.at_marks)
        twin.found = [found.y, *found.last, *found.every]
        return twin


def form(states: list[Tensor]) -> Any:
    return states[0] if len(states) == 1 else tuple(states)


def flat(found: tuple[Any, ...]) -> list[Tensor]:
    tensors: list[Tensor] = []
    for part in found:
        tensors += part if isinstance(part, tuple) else [part]
    return tensors


def judge(given: Given, actual: list[Tensor], lengths: Any, wide: torch.dtype) -> None:
    """Results and, where they are differentiable, gradients of random cotangents."""
    dtype = given.x.dtype
    truth, reference = given.stepwise(torch.float64, lengths), given.stepwise(wide, lengths)
    pairs = zip(actual, truth.found, reference.found, strict=True)
    for index, (own, true, other) in enumerate(pairs):
        assert own.dtype == dtype
        assert_within_budget(own, true, other.to(dtype), name=f"result {index}")
    if not actual[0].requires_grad:
        return
    cotangents = [torch.randn_like(own) for own in actual]

    def gradients(of: Given, outputs: list[Tensor]) -> list[Tensor]:
        likes = [c.to(o.dtype) for c, o in zip(cotangents, outputs, strict=True)]
        # Where every row is marked at its first step, nobody reads the states before it.
        return list(torch.autograd.grad(outputs, of.tensors(), likes, materialize_grads=True))

    grads = (
        gradients(given, actual),
        gradients(truth, truth.found),
        gradients(reference, reference.found),
    )
    for index, (own, true, other) in enumerate(zip(*grads, strict=True)):
        assert_within_budget(own, true, other.to(dtype), name=f"gradient {index}")
