# SPDX-License-Identifier: MIT
"""ONNX's LSTM, GRU and RNN nodes as fused layers."""

from __future__ import annotations

from collections.abc import Iterator
from os import PathLike
from typing import Any

from torch import Tensor

from ..nn.fused_layer import FusedLayer
from ..nn.layers import FusedGRU, FusedLSTM, FusedRNN
from .onnx_constants import Constants, graphs_of
from .recurrences import Recurrence, gates, layer_of, refuse

# Where torch.nn's gates stand among a node's: i o f c and z r h there.
_ORDERS = {"LSTM": (0, 2, 3, 1), "GRU": (1, 0, 2), "RNN": (0,)}
# i g o of i o f c: with input_forget the node does not look at f.
_COUPLED = (0, 3, 1)
_CLASSES: dict[str, type[FusedLayer]] = {"LSTM": FusedLSTM, "GRU": FusedGRU, "RNN": FusedRNN}
_ACTIVATIONS = {"LSTM": ["sigmoid", "tanh", "tanh"], "GRU": ["sigmoid", "tanh"], "RNN": ["tanh"]}
_INPUTS = ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P")


def from_onnx(
    model_or_path: Any,
) -> FusedLayer | dict[str, FusedLayer]:
    """The fused layer of a graph's one LSTM, GRU or RNN node, or the layers of all by name.

    The layer takes X and gives the numbers of Y, Y_h and Y_c: X (T, B, I) gives
    y (T, B, D*H), with y.unflatten(-1, (D, H)).transpose(1, 2) as Y. sequence_lens becomes
    `lengths`, the initial states `hx`. It differs where a row has no step at all: the states of
    such a row stay what they were, while ONNX Runtime returns zeros. layout=1 becomes batch_first.

    Args:
        model_or_path: an onnx.ModelProto, or the path of a file, beside whose external data lies.

    Returns:
        The layer; of several nodes a dict from the nodes' names to layers, where a node without a
        name goes by that of its first output.

    Raises:
        ValueError: the graph has no such node; weights that are no constants; or what a layer
            cannot express: clip, other activations, peepholes, initial states that are constants
            other than zeros.
        ModuleNotFoundError: the `onnx` package is not installed.
    """
    import onnx

    if isinstance(model_or_path, (str, PathLike)):
        model = onnx.load(model_or_path)
    elif isinstance(model_or_path, onnx.ModelProto):
        model = model_or_path
    else:
        got = type(model_or_path).__name__
        raise TypeError(f"model_or_path: expected an onnx.ModelProto or a path, got {got}")
    layers: dict[str, FusedLayer] = {}
    for node, values in _nodes(model.graph, model.opset_import, None):
        if node.op_type in _CLASSES and node.domain in ("", "ai.onnx"):
            name = node.name or next(filter(None, node.output))
            if name in layers:
                raise ValueError(f"nodes: expected a name of its own for each, got {name!r} twice")
            try:
                layers[name] = _layer(node, values)
            except ValueError as error:
                raise ValueError(f"{node.op_type} {name!r}: {error}") from None
    if not layers:
        raise ValueError("model_or_path: expected a graph with LSTM, GRU or RNN nodes, got none")
    return next(iter(layers.values())) if len(layers) == 1 else layers


def _nodes(graph: Any, opsets: Any, around: Constants | None) -> Iterator[tuple[Any, Constants]]:
    """All nodes of a graph and of those inside it, with the constants that each can name."""
    constants = Constants(graph, opsets, around)
    for node in graph.node:
        yield node, constants
        for inner in graphs_of(node):
            yield from _nodes(inner, opsets, constants)


def _layer(node: Any, values: Constants) -> FusedLayer:
    from onnx import helper

    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    inputs = dict(zip(_INPUTS, node.input, strict=False))
    kind = node.op_type
    direction = attributes.get("direction", b"forward").decode()
    options = _options(kind, attributes, count=2 if direction == "bidirectional" else 1)
    weights = [_constant(inputs, name, values) for name in ("W", "R")]
    bias = _constant(inputs, "B", values) if inputs.get("B") else None
    for name in ("initial_h", "initial_c", "P"):
        given = values.get(inputs.get(name, ""))
        if name == "P" and inputs.get(name) and given is None:
            raise refuse("P", "no peepholes", "those of another node")
        if given is not None and given.any():
            expected = "no peepholes" if name == "P" else "zeros or a value of the call"
            raise refuse(name, expected, "other constants")
    order = _COUPLED if options.get("coupled") else _ORDERS[kind]
    recurrences = []
    for n in range(weights[0].size(0)):
        halves = (None, None) if bias is None else bias[n].chunk(2)
        recurrences.append(
            Recurrence(
                *(gates(w[n], order) for w in weights),
                *(None if b is None else gates(b, order) for b in halves),
            )
        )
    return layer_of(
        _CLASSES[kind],
        recurrences,
        reverse=direction == "reverse",
        batch_first=bool(attributes.get("layout", 0)),
        **options,
    )


def _options(kind: str, attributes: dict[str, Any], count: int) -> dict[str, Any]:
    """The layer's own options; refuses what it cannot express."""
    if "clip" in attributes:
        raise refuse("clip", "none", attributes["clip"])
    expected = _ACTIVATIONS[kind]
    given = [name.decode().lower() for name in attributes.get("activations", [])]
    given = given or expected * count
    options: dict[str, Any] = {}
    if kind == "RNN" and given == ["relu"] * count:
        options["nonlinearity"] = "relu"
    elif given != expected * count:
        raise refuse("activations", expected, given)
    if kind == "LSTM":
        options["coupled"] = bool(attributes.get("input_forget", 0))
    if kind == "GRU":
        options["reset_after"] = bool(attributes.get("linear_before_reset", 0))
    return options


def _constant(inputs: dict[str, str], name: str, values: Constants) -> Tensor:
    found = values.get(inputs.get(name, ""))
    if found is None:
        got = inputs.get(name) or "none"
        raise ValueError(f"{name}: expected a constant of the graph, got {got} of another node")
    return found
