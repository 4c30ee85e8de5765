# SPDX-License-Identifier: MIT
"""Calls with an argument that is no tensor, but has `__torch_function__`: torch.nn's own functions.

Such an object knows those by name, and answers in their place.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import _VF, Tensor

from ..backends.aten import FUNCTIONS
from ..ops import LayerOutput
from .compact_rows import CompactRows


def check(args: Sequence[Any], cell: str, **extra: object) -> None:
    """Raises TypeError unless torch.nn has a function for a call with these arguments.

    Args:
        args: input, states and weights.
        cell: a key of `ops.GATES`.
        extra: what torch.nn does not know, by name; None is nothing.
    """
    unknown = [name for name, value in extra.items() if value is not None]
    unknown += [] if cell in FUNCTIONS else ["reset_after=False"]
    if unknown:
        got = next(type(t).__name__ for t in args if not isinstance(t, Tensor))
        raise TypeError(f"{unknown[0]}: expected tensors alone beside it, got {got}")


def foreign_layers(
    cell: str,
    x: Any,
    states: Sequence[Any],
    shapes: Sequence[tuple[int, ...]],
    weights: list[Any],
    options: tuple[Any, ...],
    rows: CompactRows | None,
) -> LayerOutput:
    """The results of all layers, by torch.nn's function, of arguments that only act as tensors.

    Args:
        cell: a key of `aten.FUNCTIONS`.
        x: input sequence, (T, B, I), or compact rows, (rows, I).
        states: (h0,), for the LSTM (h0, c0); none are zeros.
        shapes: those of the states.
        weights: torch.nn's order, layer by layer, direction by direction.
        options: bias, num_layers, dropout, training, bidirectional.
        rows: of compact rows; None is no packed input.
    """
    hx = _hx(x, states, shapes)
    if rows is None:
        found: Any = FUNCTIONS[cell](x, hx, weights, *options, False)
    else:
        found = FUNCTIONS[cell](x, rows.batch_sizes, hx, weights, *options)
    return LayerOutput(found[0], found[1], found[2] if cell == "lstm" else None)


def foreign_step(
    cell: str, x: Any, states: Sequence[Any], weights: list[Any], hidden_size: int
) -> tuple[Any, ...]:
    """The new states, (h,) or (h, c), by torch.nn's cell, of arguments that only act as tensors.

    Args:
        cell: a key of `aten.FUNCTIONS`.
        x: rows, (B, I).
        states: (h,), for the LSTM (h, c); none are zeros.
        weights: w_ih, w_hh and, with biases, b_ih, b_hh.
        hidden_size: H.
    """
    hx = _hx(x, states, [(x.size(0), hidden_size)] * (2 if cell == "lstm" else 1))
    found: Any = getattr(_VF, f"{cell}_cell")(x, hx, *(*weights, None, None)[:4])
    return (found[0], found[1]) if cell == "lstm" else (found,)


def _hx(x: Any, states: Sequence[Any], shapes: Sequence[tuple[int, ...]]) -> Any:
    if not states:
        states = [torch.zeros(shape, dtype=x.dtype, device=x.device) for shape in shapes]
    return tuple(states) if len(states) == 2 else states[0]
