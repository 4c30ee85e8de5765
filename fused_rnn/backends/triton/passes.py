# SPDX-License-Identifier: MIT
"""Both ops of the Triton backend: library products before and after the kernels' recurrence."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ...ops import GATES, Weights, split
from . import configurations, stuck
from .block_backward import block_backward
from .block_forward import block_forward
from .configurations import Block, choose, streamed
from .grid_backward import grid_backward
from .grid_forward import grid_forward
from .problem import GRADS, SLOTS, Backward, Forward, Step
from .step import step

# Gate gradients of the GRUs stand in the order n r z (q), their weights as r z n.
_ROLLED = ("gru", "gru_reset_before")


def forward(
    x: Tensor,
    h0: Tensor | None,
    c0: Tensor | None,
    weights: Sequence[Tensor],
    lengths: Tensor | None,
    resets: Tensor | None,
    cell: str,
    reverse: Sequence[int],
    keep_tape: bool,
    products: int = 6,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The outputs y (T, B, N, H), hn and cn (N, B, H), and what is kept; see `ops`."""
    stuck.check()
    steps, batch, _ = x.shape
    count, parts = len(reverse), split(weights, len(reverse))
    hidden = parts[0].w_hh.shape[1]
    shape = (steps, batch, count, SLOTS[cell], hidden)
    tape = x.new_empty(shape) if keep_tape and SLOTS[cell] else None
    y = x.new_empty((steps, batch, count, hidden))
    hn = x.new_empty((count, batch, hidden))
    cn = torch.empty_like(hn) if cell == "lstm" else None
    if batch and steps == 1:
        slices = x[0], parts, h0, c0, lengths, None if resets is None else resets[0], y[0], hn, cn
        one = Step(cell, reverse, *slices, None if tape is None else tape[0])
        step(one, streamed(x.dtype))
    elif batch:
        xg = _project(x, parts).view(steps, batch, count, GATES[cell], hidden)
        bias = None if parts[0].b_hh is None else _stack([w.b_hh for w in parts])
        w_hh = _stack([w.w_hh for w in parts])
        form = choose(cell, hidden, x.dtype, configurations.device_of(x.device))
        a = Forward(cell, reverse, xg, w_hh, bias, h0, c0, lengths, resets, y, hn, cn, tape)
        block_forward(a, form) if isinstance(form, Block) else grid_forward(a, form)

    def none() -> Tensor:
        return x.new_empty((0,))

    kept = none() if tape is None else tape, y.clone() if keep_tape else none()
    return y, hn, none() if cn is None else cn, *kept


def backward(
    dy: Tensor | None,
    dhn: Tensor | None,
    dcn: Tensor | None,
    x: Tensor,
    h0: Tensor | None,
    c0: Tensor | None,
    weights: Sequence[Tensor],
    lengths: Tensor | None,
    resets: Tensor | None,
    y: Tensor,
    tape: Tensor,
    cell: str,
    reverse: Sequence[int],
    need_dx: bool,
    need_dstate: bool,
    need_dweights: bool,
    products: int = 6,
) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
    """The gradients dx (T, B, I), dh0 and dc0 (N, B, H), and one for each weight; see `ops`."""
    stuck.check()
    steps, batch, count, hidden = y.shape
    parts = split(weights, count)
    dg = x.new_empty((steps, batch, count, GRADS[cell], hidden))
    none = x.new_empty((0,))
    dh0 = x.new_empty((count, batch, hidden)) if need_dstate else None
    dc0 = x.new_empty((count, batch, hidden)) if need_dstate and cell == "lstm" else None
    if batch:
        w_hh = _stack([w.w_hh for w in parts])
        form = choose(cell, hidden, x.dtype, configurations.device_of(x.device))
        a = Backward(
            *(cell, reverse, dy, dhn, dcn, w_hh, h0, c0, lengths, resets),
            *(y, tape if SLOTS[cell] else None, dg, dh0, dc0),
        )
        block_backward(a, form) if isinstance(form, Block) else grid_backward(a, form)
    dx = _input_gradient(dg, x, parts, cell) if need_dx else none
    dweights: list[Tensor] = []
    if need_dweights:
        inside = None
        if lengths is not None:
            inside = torch.arange(steps, device=x.device).unsqueeze(1) < lengths  # (T, B)
            # What stands past a row's end may be NaN, and times zero it would still be.
            x = torch.where(inside.unsqueeze(2), x, 0)
        for n, part in enumerate(parts):
            before = _before(y, h0, lengths, inside, resets, n, bool(reverse[n]))
            reset = None
            if cell == "gru_reset_before":
                reset = tape[:, :, n, 0] * before
                # The tape holds anything past a row's end.
                reset = reset if inside is None else torch.where(inside.unsqueeze(2), reset, 0)
            dweights += _weight_gradients(dg, x, before, reset, part, cell, n)
    return dx, none if dh0 is None else dh0, none if dc0 is None else dc0, dweights


def _stack(tensors: Sequence[Tensor]) -> Tensor:
    return tensors[0].unsqueeze(0) if len(tensors) == 1 else torch.stack(list(tensors))


def _project(x: Tensor, parts: Sequence[Weights]) -> Tensor:
    """The projection x W_ih^T + b_ih of all recurrences, (T*B, N*G*H), in one product."""
    rows = x.flatten(0, 1)
    w_ih = parts[0].w_ih if len(parts) == 1 else torch.cat([w.w_ih for w in parts])
    biases = [w.b_ih for w in parts if w.b_ih is not None]
    if not biases:
        return torch.mm(rows, w_ih.t())
    return torch.addmm(biases[0] if len(biases) == 1 else torch.cat(biases), rows, w_ih.t())


def _columns(dg: Tensor, n: int, first: int, last: int) -> Tensor:
    """The slots from `first` to before `last` of recurrence n, a (T*B, slots*H) view of dg."""
    return dg[:, :, n, first:last].flatten(2).flatten(0, 1)


def _input_gradient(dg: Tensor, x: Tensor, parts: Sequence[Weights], cell: str) -> Tensor:
    """The input's gradient dx = sum over n of dG W_ih, (T, B, I)."""
    dx = torch.empty_like(x)
    rows, gates = dx.flatten(0, 1), GATES[cell]
    for n, (w_ih, *_) in enumerate(parts):
        if cell in _ROLLED:
            w_ih = w_ih.roll(w_ih.shape[0] // gates, 0)
        gradients = _columns(dg, n, 0, gates)
        if n == 0:
            torch.mm(gradients, w_ih, out=rows)
        else:
            rows.addmm_(gradients, w_ih)
    return dx


def _before(
    y: Tensor,
    h0: Tensor | None,
    lengths: Tensor | None,
    inside: Tensor | None,
    resets: Tensor | None,
    n: int,
    backward: bool,
) -> Tensor:
    """The states that the steps of recurrence n saw, (T, B, H)."""
    own = y[:, :, n]
    start = own.new_zeros(own.shape[1:]) if h0 is None else h0[n]
    if not backward:
        before = torch.cat([start.unsqueeze(0), own[:-1]])
    else:
        before = torch.cat([own[1:], start.unsqueeze(0)])
        if lengths is not None:
            first = lengths.clamp(1, own.shape[0]).sub(1)
            before[first, torch.arange(own.shape[1], device=own.device)] = start
    seen = inside
    if resets is not None:
        if backward:
            marks = resets if inside is None else resets & inside
            marks = torch.cat([marks[1:], torch.zeros_like(marks[:1])])
        else:
            marks = resets
        seen = ~marks if inside is None else inside & ~marks
    return before if seen is None else torch.where(seen.unsqueeze(2), before, 0)


def _weight_gradients(
    dg: Tensor, x: Tensor, before: Tensor, reset: Tensor | None, part: Weights, cell: str, n: int
) -> list[Tensor]:
    """The gradients of one recurrence's weights, in their order: products over all T*B rows."""
    gates, grads = GATES[cell], GRADS[cell]
    hidden = before.shape[2]
    of_input, rows = _columns(dg, n, 0, gates), before.flatten(0, 1)
    dw_ih = of_input.t() @ x.flatten(0, 1)
    db_ih = None if part.b_ih is None else of_input.sum(0)
    db_hh = db_ih
    if cell in _ROLLED:
        dw_ih = dw_ih.roll(-hidden, 0)
        db_ih = None if db_ih is None else db_ih.roll(-hidden, 0)
        db_hh = db_ih
    if cell == "gru":
        of_state = _columns(dg, n, 1, grads)
        dw_hh = of_state.t() @ rows
        db_hh = None if db_ih is None else of_state.sum(0)
    elif reset is not None:
        of_reset = _columns(dg, n, 0, 1).t() @ reset.flatten(0, 1)
        dw_hh = torch.cat([_columns(dg, n, 1, 3).t() @ rows, of_reset])
    else:
        dw_hh = of_input.t() @ rows
    if db_ih is None or db_hh is None:
        return [dw_ih, dw_hh]
    return [dw_ih, dw_hh, db_ih, db_hh.clone() if db_hh is db_ih else db_hh]
