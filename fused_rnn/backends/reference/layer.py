# SPDX-License-Identifier: MIT
"""A whole layer in plain PyTorch: the oracle of every other backend.

Out of place, without a branch on data: differentiable any number of times, in both modes, and
open to torch.func. Half types are computed in float32 and rounded at the outputs only.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ...ops import LayerOutput, Weights, split, sum_dtype
from .cells import STEPS, State
from .products import linear


class Masks(NamedTuple):
    """Masks by step and row, (T, B, 1): steps inside the row, steps that see the state before."""

    alive: Tensor | None
    keep: Tensor | None


def reference_layer(
    x: Tensor,
    h0: Tensor | None,
    c0: Tensor | None,
    weights: Sequence[Tensor],
    lengths: Tensor | None,
    resets: Tensor | None,
    *,
    cell: str,
    reverse: Sequence[int],
    products: int = 6,
) -> LayerOutput:
    """The outputs and final states of N recurrences over one input.

    Args:
        x: input sequence, (T, B, I).
        h0: initial states, (N, B, P); None is zeros.
        c0: initial cell states of the LSTM, (N, B, H); None is zeros.
        weights: torch.nn's order, recurrence by recurrence.
        lengths: steps of each row, (B,); None is T for all. A reverse recurrence starts at the
            row's last step; steps past it give zeros and leave the state.
        resets: marks, (T, B), before which a row's sequence is cut in two that share no state.
        cell: a key of `cells.STEPS`.
        reverse: N flags, 1 where the recurrence walks backward in time.
        products: of bfloat16 for each product of float32, 6, 3 or 1; 6 for every other dtype.

    Returns:
        y (T, B, N, P), hn (N, B, P), cn (N, B, H) or None.
    """
    out, inner = x.dtype, sum_dtype(x.dtype)
    x, h0, c0 = x.to(inner), _to(h0, inner), _to(c0, inner)
    inside = inside_of(x, lengths)
    if inside is not None:
        # What stands past a row's end must not reach a sum, not even times zero: it may be NaN.
        x = torch.where(inside, x, 0)
    ys: list[Tensor] = []
    finals: list[State] = []
    for n, part in enumerate(split([w.to(inner) for w in weights], len(reverse))):
        state = _initial(x, h0 if h0 is None else h0[n], c0 if c0 is None else c0[n], part, cell)
        masks = masks_of(inside, resets, bool(reverse[n]))
        steps, final = _walk(x, state, part, masks, cell, bool(reverse[n]), products)
        ys.append(steps)
        finals.append(final)
    hn, *cn = (torch.stack(states).to(out) for states in zip(*finals, strict=True))
    return LayerOutput(torch.stack(ys, 2).to(out), hn, cn[0] if cn else None)


def _to(tensor: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    return None if tensor is None else tensor.to(dtype)


def inside_of(x: Tensor, lengths: Tensor | None) -> Tensor | None:
    """A mask (T, B, 1) of the steps inside their rows; None where all are."""
    if lengths is None:
        return None
    return (torch.arange(x.shape[0], device=x.device).unsqueeze(1) < lengths).unsqueeze(2)


def masks_of(inside: Tensor | None, resets: Tensor | None, reverse: bool) -> Masks:
    """The masks of a recurrence, of the steps inside their rows and of the marks, (T, B)."""
    if resets is None:
        return Masks(inside, inside)
    marks = resets.unsqueeze(2)
    if reverse:
        # Going back, the cut before step t lies between the visits of t and t - 1; a mark past
        # the row's end is none, and nothing follows the last step.
        marks = marks if inside is None else marks & inside
        marks = torch.cat([marks[1:], torch.zeros_like(marks[:1])])
    keep = ~marks if inside is None else inside & ~marks
    return Masks(inside, keep)


def _initial(x: Tensor, h0: Tensor | None, c0: Tensor | None, weights: Weights, cell: str) -> State:
    batch = x.shape[1]
    if h0 is None:
        h0 = x.new_zeros(batch, weights.w_hh.shape[1])
    if cell != "lstm":
        return (h0,)
    return h0, x.new_zeros(batch, weights.w_hh.shape[0] // 4) if c0 is None else c0


def _walk(
    x: Tensor,
    state: State,
    weights: Weights,
    masks: Masks,
    cell: str,
    reverse: bool,
    products: int,
) -> tuple[Tensor, State]:
    """All steps of one recurrence: y (T, B, P) and the final state."""
    step = STEPS[cell]
    # unbind, not an index a step: the gradient of T indices is T buffers of T steps each.
    rows = linear(x, weights.w_ih, weights.b_ih, products)
    projected = rows.unbind(0)  # T of (B, G*H)
    (y,), final = walk(
        lambda t, seen: step(projected[t], seen, weights, products), state, masks, x, reverse
    )
    return y, final


def walk(
    step: Callable[[int, State], State],
    state: State,
    masks: Masks,
    x: Tensor,
    reverse: bool,
    shown: int = 1,
) -> tuple[State, State]:
    """All steps of one recurrence: y (T, B, P) and the final state.

    Args:
        step: of a time and the state that it sees, the state after it.
        x: has as many steps.
        shown: how many parts of the state come of every step; the first is y.
    """
    order = range(x.shape[0])
    outputs: list[State] = []
    for t in reversed(order) if reverse else order:
        new = step(t, state if masks.keep is None else _where(masks.keep[t], state))
        if masks.alive is None:
            state = new
            outputs.append(new[:shown])
        else:
            state = _where(masks.alive[t], new, state)
            outputs.append(_where(masks.alive[t], new[:shown]))
    every = zip(*(outputs[::-1] if reverse else outputs), strict=True)
    return tuple(torch.stack(part) for part in every), state


def _where(mask: Tensor, chosen: State, other: State | None = None) -> State:
    """The state `chosen` where the mask holds, elsewhere `other` or zeros."""
    if other is None:
        return tuple(torch.where(mask, state, 0) for state in chosen)
    return tuple(torch.where(mask, *pair) for pair in zip(chosen, other, strict=True))
