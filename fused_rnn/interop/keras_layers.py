# SPDX-License-Identifier: MIT
"""Keras' LSTM, GRU, SimpleRNN and Bidirectional as fused layers."""

from __future__ import annotations

import warnings
from typing import Any

from torch import Tensor

from ..nn.fused_layer import FusedLayer
from ..nn.layers import FusedGRU, FusedLSTM, FusedRNN
from .recurrences import Recurrence, gates, layer_of, refuse, tensor

# Where torch.nn's gates stand: z r h in Keras' GRU.
_ORDERS = {"LSTMCell": (0, 1, 2, 3), "GRUCell": (1, 0, 2), "SimpleRNNCell": (0,)}
_CLASSES: dict[str, type[FusedLayer]] = {
    "LSTMCell": FusedLSTM,
    "GRUCell": FusedGRU,
    "SimpleRNNCell": FusedRNN,
}


def from_keras(keras_layer: Any) -> FusedLayer:
    """The fused layer, batch_first, of Keras 3's LSTM, GRU, SimpleRNN, RNN or Bidirectional.

    It returns what return_sequences and return_state ask for together: outputs of all steps and
    final states, which Keras gives in the order forward, backward. Where Keras returns the outputs
    of go_backwards in the order in which they were computed, they stand here at their inputs'
    steps. A mask on the right is `lengths`; past them outputs are zeros, where Keras repeats the
    last one unless zero_output_for_mask is set.

    Args:
        keras_layer: a layer that is built, on any backend.

    Raises:
        TypeError: it is none of these, or a layer around another cell.
        ValueError: it is not built, or has what a fused layer cannot express: other activations,
            a merge_mode other than "concat", directions that are unlike, stateful.
        ModuleNotFoundError: the `keras` package is not installed.

    Warns:
        UserWarning: it has dropout or recurrent_dropout, which act in training only.
    """
    import keras

    if not isinstance(keras_layer, keras.layers.Bidirectional):
        reverse = _goes_backwards(keras_layer)
        return _made([keras_layer], reverse=reverse)
    both = [keras_layer.forward_layer, keras_layer.backward_layer]
    if keras_layer.merge_mode != "concat":
        raise refuse("merge_mode", "'concat'", repr(keras_layer.merge_mode))
    if [_goes_backwards(half) for half in both] != [False, True]:
        raise refuse("go_backwards", "[False, True]", [half.go_backwards for half in both])
    return _made(both)


def _goes_backwards(half: Any) -> bool:
    import keras

    if not isinstance(half, keras.layers.RNN):
        expected = "keras.layers.LSTM, GRU, SimpleRNN, RNN or Bidirectional"
        raise TypeError(f"keras_layer: expected {expected}, got {type(half).__name__}")
    return bool(half.go_backwards)


def _made(halves: list[Any], *, reverse: bool = False) -> FusedLayer:
    """The layer of one direction, or of both."""
    kinds = [_kind(half) for half in halves]
    if kinds[1:] and kinds[0] != kinds[1]:
        raise refuse("backward_layer", f"one like forward_layer, {kinds[0]}", kinds[1])
    name, options = kinds[0]
    recurrences = [_recurrence(half.cell, name) for half in halves]
    shapes = [(r.w_ih.shape, r.w_hh.shape) for r in recurrences]
    if shapes[1:] and shapes[0] != shapes[1]:
        sizes = [tuple(shape[0]) for shape in shapes]
        raise refuse("backward_layer", f"weights like forward_layer's, {sizes[0]}", sizes[1])
    return layer_of(_CLASSES[name], recurrences, reverse=reverse, batch_first=True, **dict(options))


def _kind(half: Any) -> tuple[str, tuple[tuple[str, Any], ...]]:
    """The cell's name and the options of the fused layer; refuses what it cannot express."""
    import keras

    cell = half.cell
    name = type(cell).__name__
    if type(cell) is not getattr(keras.layers, name, None) or name not in _CLASSES:
        raise TypeError(f"cell: expected one of {', '.join(_CLASSES)} of Keras, got {name}")
    if half.stateful:
        raise refuse("stateful", "False (states are given and returned)", half.stateful)
    if not cell.built:
        raise ValueError(
            f"keras_layer: expected one that is built, got {half.name} without weights"
        )
    dropouts = {key: getattr(cell, key) for key in ("dropout", "recurrent_dropout")}
    if any(dropouts.values()):
        warnings.warn(f"from_keras leaves out what acts in training only: {dropouts}", stacklevel=4)
    known = {keras.activations.tanh: "tanh", keras.activations.relu: "relu"}
    if name == "SimpleRNNCell":
        if cell.activation not in known:
            raise refuse("activation", "tanh or relu", _named(cell.activation))
        return name, (("nonlinearity", known[cell.activation]),)
    if cell.activation not in known:
        raise refuse("activation", "tanh or relu", _named(cell.activation))
    gates_known = {
        keras.activations.sigmoid: "sigmoid",
        keras.activations.hard_sigmoid: "hard_sigmoid",
    }
    if cell.recurrent_activation not in gates_known:
        expected = "sigmoid or hard_sigmoid"
        raise refuse("recurrent_activation", expected, _named(cell.recurrent_activation))
    options = (
        ("activation", known[cell.activation]),
        ("gate_activation", gates_known[cell.recurrent_activation]),
    )
    return name, (*options, ("reset_after", cell.reset_after)) if name == "GRUCell" else options


def _named(function: Any) -> str:
    return getattr(function, "__name__", repr(function))


def _recurrence(cell: Any, name: str) -> Recurrence:
    order = _ORDERS[name]
    weights = [_value(w).t() for w in (cell.kernel, cell.recurrent_kernel)]
    bias = _value(cell.bias) if cell.use_bias else None
    # Of the GRU with reset_after: of the input, and of the state.
    biases = (bias, None) if bias is None or bias.dim() == 1 else bias.unbind()
    return Recurrence(
        *(gates(w, order) for w in weights),
        *(None if b is None else gates(b, order) for b in biases),
    )


def _value(variable: Any) -> Tensor:
    import keras

    return tensor(keras.ops.convert_to_numpy(variable))
