# SPDX-License-Identifier: MIT
"""Flax' recurrent cells and layers, of linen and of nnx, as fused layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..nn.fused_layer import FusedLayer
from ..nn.layers import FusedGRU, FusedLSTM, FusedRNN
from .jax_functions import check_function
from .recurrences import Recurrence, layer_of, refuse, tensor

_GATES = {"LSTM": ("i", "f", "g", "o"), "GRU": ("r", "z", "n"), "RNN": ("",)}
_CELLS = {"LSTMCell": "LSTM", "OptimizedLSTMCell": "LSTM", "GRUCell": "GRU", "SimpleCell": "RNN"}
_CLASSES: dict[str, type[FusedLayer]] = {"LSTM": FusedLSTM, "GRU": FusedGRU, "RNN": FusedRNN}


def from_flax(module: Any, variables: Mapping[str, Any] | None = None) -> FusedLayer:
    """The fused layer of a cell, RNN or Bidirectional of flax.linen or flax.nnx.

    It takes batches as an RNN does, (B, T, I), or (T, B, I) where that has time_major=True; a cell
    by itself is taken for one without. seq_lengths becomes `lengths`: padded steps give zeros
    here, and a row of length 0 keeps its state. flax' LSTM carries (c, h), a fused one (h, c).
    With reverse=True, outputs stand at their inputs' steps, as with keep_order=True.

    Args:
        module: LSTMCell, OptimizedLSTMCell, GRUCell or SimpleCell; RNN around one of them;
            Bidirectional around two such RNNs.
        variables: what linen's `init` returned, or its "params"; nnx' modules hold their own.

    Raises:
        TypeError: the module is none of these, or `variables` are missing or too many.
        ValueError: it has what a fused layer cannot express: other functions, a residual, another
            merge_fn, directions that are unlike; or the variables are not the module's.
        ModuleNotFoundError: the `flax` package is not installed.
    """
    from flax import linen, nnx

    flax = linen if isinstance(module, linen.Module) else nnx
    if flax is linen and variables is None:
        raise TypeError("variables: expected those of the linen module, got None")
    if flax is nnx and variables is not None:
        raise TypeError("variables: expected None beside an nnx module, which holds its own")
    params = None if variables is None else variables.get("params", variables)
    if isinstance(module, flax.Bidirectional):
        merge = module.merge_fn
        if getattr(merge, "__module__", "") != type(module).__module__:
            raise refuse("merge_fn", "concatenation", getattr(merge, "__name__", repr(merge)))
        halves = [
            (rnn, _inside(params, name))
            for rnn, name in (
                (module.forward_rnn, "forward_rnn"),
                (module.backward_rnn, "backward_rnn"),
            )
        ]
        return _made(flax, halves, time_major=module.time_major)
    if isinstance(module, flax.RNN):
        options = {"reverse": module.reverse, "time_major": module.time_major}
        return _made(flax, [(module, params)], **options)
    return _of_cells(flax, [(module, params)], batch_first=True)


def _inside(params: Any, name: str) -> Any:
    if params is None:
        return None
    if name not in params:
        raise ValueError(f"variables: expected parameters of {name!r}, got {sorted(params)}")
    return params[name]


def _made(
    flax: Any, halves: list[tuple[Any, Any]], *, time_major: bool, reverse: bool = False
) -> FusedLayer:
    """The layer of one RNN, or of two side by side."""
    for rnn, _ in halves:
        if not isinstance(rnn, flax.RNN):
            raise TypeError(f"module: expected flax' RNN inside, got {type(rnn).__name__}")
    if len(halves) == 2 and any(rnn.reverse for rnn, _ in halves):
        raise refuse("reverse", "False of both RNNs", [rnn.reverse for rnn, _ in halves])
    cells = [(rnn.cell, _inside(params, "cell")) for rnn, params in halves]
    return _of_cells(flax, cells, reverse=reverse, batch_first=not time_major)


def _of_cells(flax: Any, cells: list[tuple[Any, Any]], **options: Any) -> FusedLayer:
    kinds = [_kind(flax, cell) for cell, _ in cells]
    if kinds[1:] and kinds[0] != kinds[1]:
        raise refuse("backward_rnn", f"a cell like forward_rnn's, {kinds[0]}", kinds[1])
    kind, own = kinds[0]
    recurrences = [
        _of_linen(kind, params) if params is not None else _of_nnx(kind, cell)
        for cell, params in cells
    ]
    shapes = [tuple(r.w_hh.shape) for r in recurrences]
    if shapes[1:] and shapes[0] != shapes[1]:
        raise refuse("backward_rnn", f"weights like forward_rnn's, {shapes[0]}", shapes[1])
    return layer_of(_CLASSES[kind], recurrences, **options, **dict(own))


def _kind(flax: Any, cell: Any) -> tuple[str, tuple[tuple[str, Any], ...]]:
    """The kind of a cell and the options of the fused layer; refuses what it cannot express."""
    name = type(cell).__name__
    if name not in _CELLS or type(cell) is not getattr(flax, name):
        raise TypeError(f"module: expected one of {', '.join(_CELLS)} of flax, got {name}")
    if name == "SimpleCell":
        if cell.residual:
            raise refuse("residual", False, True)
        return "RNN", (
            ("nonlinearity", check_function("activation_fn", cell.activation_fn, "tanh", "relu")),
        )
    check_function("gate_fn", cell.gate_fn, "sigmoid")
    check_function("activation_fn", cell.activation_fn, "tanh")
    return _CELLS[name], ()


def _of_linen(kind: str, params: Any) -> Recurrence:
    names = [[side + gate for gate in _GATES[kind]] for side in "ih"]
    return _of_two(*([_inside(params, name) for name in side] for side in names))


def _of_nnx(kind: str, cell: Any) -> Recurrence:
    if hasattr(cell, "dense_i"):
        return _of_two([_values(cell.dense_i)], [_values(cell.dense_h)])
    names = {"if": "if_"}  # a word of Python's
    own = [[side + gate for gate in _GATES[kind]] for side in "ih"]
    return _of_two(*([_values(getattr(cell, names.get(n, n))) for n in side] for side in own))


def _values(linear: Any) -> dict[str, Any]:
    found = {"kernel": linear.kernel[...]}
    if linear.bias is not None:
        found["bias"] = linear.bias[...]
    return found


def _of_two(inputs: list[Any], states: list[Any]) -> Recurrence:
    """Weights of linear maps of the input and of the state, gate by gate or of all at once."""
    return Recurrence(_weights(inputs), _weights(states), _biases(inputs), _biases(states))


def _weights(linears: list[Any]) -> Tensor:
    return torch.cat([tensor(one["kernel"]).t() for one in linears])


def _biases(linears: list[Any]) -> Tensor | None:
    if not any("bias" in one for one in linears):
        return None
    own = [tensor(one["bias"] if "bias" in one else one["kernel"][0]) for one in linears]
    return torch.cat(
        [b if "bias" in one else b.zero_() for b, one in zip(own, linears, strict=True)]
    )
