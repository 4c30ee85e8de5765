# SPDX-License-Identifier: MIT
"""Fused layers as ONNX's own LSTM, GRU and RNN nodes, for torch.onnx.export."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from torch._ops import OpOverload

from .. import ops
from .._call import exporting

# Where ONNX's gates stand among torch.nn's: r z n and i f g o there.
_ORDERS = {"lstm": (0, 3, 1, 2), "gru": (1, 0, 2), "gru_reset_before": (1, 0, 2)}
_DIRECTIONS = {(0,): "forward", (1,): "reverse", (0, 1): "bidirectional"}
_INT32 = 6


def onnx_translations() -> dict[OpOverload, Callable[..., Any]]:
    """The table that makes ONNX nodes of fused layers and cells.

    For `torch.onnx.export(model, args, dynamo=True, custom_translation_table=onnx_translations())`:
    each layer becomes one LSTM, GRU (with linear_before_reset as its reset_after says) or RNN node,
    for every T and B that `dynamic_shapes` leave open; `lengths` become sequence_lens.

    Resets, projections and cells with options have no such node: a model that uses them is refused.

    Raises:
        ModuleNotFoundError: the `onnxscript` package is not installed, which torch.onnx.export
            needs, too.
    """
    import onnxscript  # noqa: F401

    exporting.knows_onnx()
    table: dict[OpOverload, Callable[..., Any]] = {
        pair.forward: _node for pair in ops.PAIRS.values()
    }
    table |= {pair.forward: _without_node for pair in ops.VARIED.values()}
    return {**table, ops.copy: _identity}


def _without_node(*_: Any) -> NoReturn:
    raise ValueError("layer: ONNX has no node of cells with options; got one")


def _identity(x: Any) -> Any:
    from onnxscript import opset18 as op

    return op.Identity(x)


def _node(
    x: Any,
    h0: Any,
    c0: Any,
    weights: Sequence[Any],
    lengths: Any,
    resets: Any,
    cell: str,
    reverse: Sequence[int],
    keep_tape: bool,
    products: int = 6,
) -> tuple[Any, ...]:
    """The outputs of the op, as an ONNX node returns them."""
    from onnxscript import opset18 as op

    if resets is not None:
        raise ValueError("resets: ONNX has no node that is cut inside a sequence; got marks")
    per = len(weights) // len(reverse)
    if per % 2:
        raise ValueError("proj_size: ONNX has no LSTM with a projection; got one")
    if tuple(reverse) not in _DIRECTIONS:
        count = len(reverse)
        raise ValueError(f"block_diagonal: ONNX has no node with heads; got {count} recurrences")
    if keep_tape:
        raise ValueError("gradients: ONNX nodes keep nothing for a backward pass")
    order = _ORDERS.get(cell, (0,))
    hidden = weights[1].shape[1]

    def stacked(*which: int) -> Any:
        """The weights at these places of each recurrence, gates in ONNX's order, (D, rows, ...)."""
        parts = []
        for first in range(0, len(weights), per):
            own = [_reordered(weights[first + at], order) for at in which]
            parts.append(op.Unsqueeze(own[0] if len(own) == 1 else op.Concat(*own, axis=0), [0]))
        return parts[0] if len(parts) == 1 else op.Concat(*parts, axis=0)

    counts = None if lengths is None else op.Cast(lengths, to=_INT32)
    bias = stacked(2, 3) if per == 4 else None
    given = (x, stacked(0), stacked(1), bias, counts, h0)
    options = {"hidden_size": hidden, "direction": _DIRECTIONS[tuple(reverse)]}
    none = op.Constant(value_floats=[])
    if cell == "lstm":
        y, hn, cn = op.LSTM(*given, c0, **options)
    elif cell.startswith("gru"):
        y, hn = op.GRU(*given, linear_before_reset=int(cell == "gru"), **options)
        cn = none
    else:
        activation = cell.removeprefix("rnn_").capitalize()
        y, hn = op.RNN(*given, activations=[activation] * len(reverse), **options)
        cn = none
    if lengths is not None:
        hn = _kept_where_empty(lengths, h0, hn)
        cn = cn if cell != "lstm" else _kept_where_empty(lengths, c0, cn)
    return op.Transpose(y, perm=[0, 2, 1, 3]), hn, cn, none, none


def _reordered(weight: Any, order: Sequence[int]) -> Any:
    from onnxscript import opset18 as op

    if len(order) == 1:
        return weight
    blocks = op.Split(weight, num_outputs=len(order), axis=0)
    return op.Concat(*(blocks[at] for at in order), axis=0)


def _kept_where_empty(lengths: Any, before: Any, after: Any) -> Any:
    """Final states; those of rows of length 0 are what they were, where runtimes give zeros."""
    from onnxscript import opset18 as op

    if before is None:
        return after
    empty = op.Unsqueeze(op.Equal(lengths, op.Constant(value_int=0)), [1])
    return op.Where(empty, before, after)
