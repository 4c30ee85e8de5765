# SPDX-License-Identifier: MIT
"""Fake kernels: the shapes and dtypes of what the ops return, for tracers."""

from typing import Any

from torch import Tensor

from .shapes import batch_size, tape_dtype, tape_slots
from .weights import layout


def forward(
    x: Tensor,
    h0: Tensor | None,
    c0: Tensor | None,
    weights: list[Tensor],
    lengths: Tensor | None,
    resets: Tensor | None,
    cell: str,
    reverse: list[int],
    keep_tape: bool,
    products: int = 6,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The outputs of the forward op with a tape."""
    _check_devices(x, h0, c0, *weights, lengths, resets)
    *rows, _ = x.shape
    batch, count = batch_size(x, lengths), len(reverse)
    hidden, output, _, _ = layout(weights, cell)
    slots = tape_slots(cell, x.dtype, x.device) if keep_tape else 0
    tape = (*rows, count, slots, hidden) if slots else (0,)
    y = (*rows, count, output)
    return (
        x.new_empty(y),
        x.new_empty((count, batch, output)),
        x.new_empty((count, batch, hidden) if cell == "lstm" else (0,)),
        x.new_empty(tape, dtype=tape_dtype(x.dtype, x.device)),
        x.new_empty(y if keep_tape else (0,)),
    )


def forward_without_tape(*args: Any) -> tuple[Tensor, ...]:
    """The outputs of the forward op of a backend that keeps no tape."""
    given = (*args[:8], False)
    y, hn, cn, *kept = forward(*given)
    return y, hn, cn, *(y.new_empty(0) for _ in kept)


def _check_devices(x: Tensor, *others: Tensor | None) -> None:
    for other in others:
        if other is not None and other.device != x.device:
            raise RuntimeError(f"expected all tensors on {x.device} as x is, got {other.device}")


def backward(
    dy: Tensor | None,
    dhn: Tensor | None,
    dcn: Tensor | None,
    x: Tensor,
    h0: Tensor | None,
    c0: Tensor | None,
    weights: list[Tensor],
    lengths: Tensor | None,
    resets: Tensor | None,
    y: Tensor,
    tape: Tensor,
    cell: str,
    reverse: list[int],
    need_dx: bool,
    need_dstate: bool,
    need_dweights: bool,
    products: int = 6,
) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
    """The gradients of the backward op, those that are not needed empty."""
    batch, count = batch_size(x, lengths), len(reverse)
    hidden, output, _, _ = layout(weights, cell)
    return (
        x.new_empty(x.shape if need_dx else (0,)),
        x.new_empty((count, batch, output) if need_dstate else (0,)),
        x.new_empty((count, batch, hidden) if need_dstate and cell == "lstm" else (0,)),
        [w.new_empty(w.shape) for w in weights] if need_dweights else [],
    )


def cells_backward(_: Tensor | None, *given: Any) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
    """The gradients of the backward op that takes one of c after every step too."""
    return backward(*given)


def linear(x: Tensor, w: Tensor, b: Tensor | None, transposed: bool) -> Tensor:
    """The output of a linear map of rows."""
    return x.new_empty(x.shape[0], w.shape[1 if transposed else 0])


def outer(a: Tensor, b: Tensor) -> Tensor:
    """The output of sums of outer products."""
    return a.new_empty(*a.shape[1:], b.shape[2])


def stored_forward(
    x: Tensor,
    h0: Tensor | None,
    c0: Tensor | None,
    weights: list[Tensor],
    lengths: Tensor | None,
    resets: Tensor | None,
    cell: str,
    reverse: list[int],
    hidden: int,
    output: int,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The outputs of the op on weights of fewer bits."""
    _check_devices(x, h0, c0, *weights, lengths, resets)
    *rows, _ = x.shape
    count = len(reverse)
    # A step has neither T nor N.
    states = (rows[0],) if len(rows) == 1 and lengths is None else (count, batch_size(x, lengths))
    return (
        x.new_empty((*rows, count * output)),
        x.new_empty((*states, output)),
        x.new_empty((*states, hidden)) if cell == "lstm" else None,
    )
