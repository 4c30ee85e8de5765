# SPDX-License-Identifier: MIT
"""ONNX's LSTM, GRU and RNN nodes as fused layers."""

from __future__ import annotations

from collections.abc import Iterator
from os import PathLike
from typing import Any

import torch
from torch import Tensor

from ..nn.fused_layer import FusedLayer
from ..nn.layers import FusedGRU, FusedLSTM, FusedRNN
from .onnx_constants import Constants, graphs_of
from .recurrences import Recurrence, gates, layer_of, refuse

# Where torch.nn's gates stand among a node's: i o f c and z r h there.
_ORDERS = {"LSTM": (0, 2, 3, 1), "GRU": (1, 0, 2), "RNN": (0,)}
# i g o of i o f c: with input_forget the node does not look at f.
_COUPLED = (0, 3, 1)
# The same of peepholes, which are of i o f.
_PEEPHOLES, _COUPLED_PEEPHOLES = (0, 2, 1), (0, 1)
_CLASSES: dict[str, type[FusedLayer]] = {"LSTM": FusedLSTM, "GRU": FusedGRU, "RNN": FusedRNN}
_ACTIVATIONS = {"LSTM": ["sigmoid", "tanh", "tanh"], "GRU": ["sigmoid", "tanh"], "RNN": ["tanh"]}
# Blocks of rows that are gates, in torch.nn's order.
_GATED = {"LSTM": (0, 1, 3), "GRU": (0, 1)}
_COUPLED_GATED = (0, 2)
_GATES = {"sigmoid": "sigmoid", "hardsigmoid": "hard_sigmoid"}
# The slope of our hard sigmoid, as an attribute's float32 has it.
_SIXTH = torch.tensor(1 / 6, dtype=torch.float32).item()
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
            cannot express: activations other than sigmoid, hard sigmoid, tanh and relu in their
            places, initial states that are constants other than zeros; clip beside
            linear_before_reset=0, or below where a hard sigmoid of another slope than 1/6 is flat.
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
    for name in ("initial_h", "initial_c"):
        given = values.get(inputs.get(name, ""))
        if given is not None and given.any():
            raise refuse(name, "zeros or a value of the call", "other constants")
    peepholes = _constant(inputs, "P", values) if inputs.get("P") else None
    if peepholes is not None and peepholes.any():
        options["peephole"] = True
    coupled = bool(options.get("coupled"))
    order = _COUPLED if coupled else _ORDERS[kind]
    scales = _scales(kind, attributes, options, len(weights[0]))
    options["clip"] = _clip(attributes, scales)
    gated = _COUPLED_GATED if coupled else _GATED.get(kind, ())
    recurrences = []
    for n, scale in enumerate(scales):

        def ours(weight: Tensor, scale: float = scale) -> Tensor:
            return _scaled(gates(weight, order), gated, len(order), scale)

        seen = None
        if options.get("peephole") and peepholes is not None:
            blocks = peepholes[n].chunk(3)
            places = _COUPLED_PEEPHOLES if coupled else _PEEPHOLES
            seen = scale * torch.cat([blocks[at] for at in places])
        halves = (None, None) if bias is None else bias[n].chunk(2)
        own_bias = [None if b is None else ours(b) for b in halves]
        own = Recurrence(*(ours(w[n]) for w in weights), *own_bias)
        recurrences.append(own._replace(peephole=seen))
    return layer_of(
        _CLASSES[kind],
        recurrences,
        reverse=direction == "reverse",
        batch_first=bool(attributes.get("layout", 0)),
        **options,
    )


def _options(kind: str, attributes: dict[str, Any], count: int) -> dict[str, Any]:
    """The layer's own options; refuses what it cannot express."""
    expected = _ACTIVATIONS[kind]
    given = [name.decode().lower() for name in attributes.get("activations", [])]
    given = given or expected * count
    one = given[: len(expected)]
    options: dict[str, Any] = {}
    if given != one * count:
        raise refuse("activations", "the same of both directions", given)
    if kind == "RNN" and one == ["relu"]:
        options["nonlinearity"] = "relu"
    elif kind != "RNN" and one[0] in _GATES and set(one[1:]) in ({"tanh"}, {"relu"}):
        options |= {"gate_activation": _GATES[one[0]], "activation": one[1]}
    elif one != expected:
        raise refuse("activations", expected, given)
    if kind == "LSTM":
        options["coupled"] = bool(attributes.get("input_forget", 0))
    if kind == "GRU":
        options["reset_after"] = bool(attributes.get("linear_before_reset", 0))
    return options


def _scales(
    kind: str, attributes: dict[str, Any], options: dict[str, Any], count: int
) -> list[float]:
    """What gates are multiplied with, so that ONNX's hard sigmoid is ours, one a direction.

    Theirs is alpha * x + beta, cut off at 0 and 1, by default with 0.2 and 0.5.
    """
    if options.get("gate_activation") != "hard_sigmoid":
        return [1.0] * count
    # Only the hard sigmoid has such numbers, and it stands once for each direction.
    alphas = list(attributes.get("activation_alpha", [])) or [0.2] * count
    betas = list(attributes.get("activation_beta", [])) or [0.5] * count
    if betas != [0.5] * count or len(alphas) != count:
        raise refuse("activation_beta", [0.5] * count, betas)
    return [1.0 if alpha == _SIXTH else 6 * alpha for alpha in alphas]


def _clip(attributes: dict[str, Any], scales: list[float]) -> float | None:
    """The bound of what gates are activated at; beside scaled gates it must leave these alone."""
    clip: float | None = attributes.get("clip")
    scaled = [scale for scale in scales if scale != 1]
    if clip is not None and any(min(scale, 1) * clip < 3 for scale in scaled):
        raise refuse("clip", "a bound where the hard sigmoid is flat", clip)
    return clip


def _scaled(weight: Tensor, gated: tuple[int, ...], count: int, scale: float) -> Tensor:
    """The rows of `count` blocks, those of gates times a scale."""
    if scale == 1:
        return weight
    blocks = weight.chunk(count)
    return torch.cat([scale * one if at in gated else one for at, one in enumerate(blocks)])


def _constant(inputs: dict[str, str], name: str, values: Constants) -> Tensor:
    found = values.get(inputs.get(name, ""))
    if found is None:
        got = inputs.get(name) or "none"
        raise ValueError(f"{name}: expected a constant of the graph, got {got} of another node")
    return found
