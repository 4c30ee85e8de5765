# SPDX-License-Identifier: MIT
"""Layers to quantize with every option, what they are given, and what they should come near."""

import copy
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import fused_rnn
from fused_rnn.backends.reference import INTEGERS, reference_layer
from fused_rnn.nn.quantization import stored

INPUTS, HIDDEN = 37, 51
LAYERS: dict[str, tuple[str, dict[str, Any]]] = {
    "rnn": ("RNN", {}),
    "rnn-relu": ("RNN", {"nonlinearity": "relu", "num_layers": 2}),
    "gru": ("GRU", {"num_layers": 2, "bidirectional": True}),
    "gru-nobias": ("GRU", {"bias": False}),
    "textbook": ("GRU", {"reset_after": False, "num_layers": 2}),
    "textbook-both": ("GRU", {"reset_after": False, "bidirectional": True, "bias": False}),
    "lstm": ("LSTM", {"num_layers": 2, "bidirectional": True}),
    "lstm-nobias": ("LSTM", {"bias": False}),
    "lstm-projected": ("LSTM", {"proj_size": 20, "num_layers": 2, "bidirectional": True}),
}
STORAGES = tuple(stored.STORAGES)


def build(name: str, inputs: int = INPUTS, hidden: int = HIDDEN, **more: Any) -> Any:
    """A fused layer of LAYERS, in evaluation."""
    kind, options = LAYERS[name]
    return getattr(fused_rnn, f"Fused{kind}")(inputs, hidden, **(options | more)).eval()


class Call(NamedTuple):
    """Arguments of a layer, those not there None."""

    x: Tensor
    states: tuple[Tensor, ...]
    lengths: Tensor | None = None
    resets: Tensor | None = None

    def of(self, module: nn.Module, dtype: torch.dtype = torch.float32) -> list[Tensor]:
        """What a layer returns: y and the final states."""
        states = tuple(state.to(dtype) for state in self.states)
        hx = None if not states else states if len(states) == 2 else states[0]
        with torch.no_grad():
            y, last = module(self.x.to(dtype), hx, lengths=self.lengths, resets=self.resets)
        return [y, *(last if isinstance(last, tuple) else (last,))]


def call(layer: Any, *, steps: int = 13, batch: int = 5, states: bool, ragged: bool) -> Call:
    """Random arguments; states of half the numbers that they can have at most."""
    shapes = layer._state_shapes(batch)[: 2 if layer._kind == "LSTM" else 1]
    given = tuple(torch.rand(shape) - 0.5 for shape in shapes) if states else ()
    lengths = torch.randint(0, steps + 1, (batch,)) if ragged else None
    resets = torch.rand(steps, batch) < 0.2 if ragged else None
    return Call(torch.randn(steps, batch, layer.input_size), given, lengths, resets)


def by_hand(quantized: Any, arguments: Call) -> list[Tensor]:
    """What a quantized layer should come near: the reference over the numbers it stands for."""
    plain = quantized.dequantize()
    rows = INTEGERS if quantized.storage == "int8" else 6
    reverse = (0, 1) if plain.bidirectional else (0,)
    weights = [w.detach() for w in plain._weights()]
    per = len(weights) // plain.num_layers
    x, hs, cs = arguments.x, [], []
    for at in range(plain.num_layers):
        h, c, *_ = *(state.chunk(plain.num_layers)[at] for state in arguments.states), None, None
        y, hn, cn = reference_layer(
            *(x, h, c, weights[at * per : (at + 1) * per]),
            *(arguments.lengths, arguments.resets),
            cell=plain._cell(),
            reverse=reverse,
            products=rows,
        )
        x = y.flatten(2)
        hs.append(hn)
        cs.append(cn)
    return [x, torch.cat(hs), *([torch.cat(cs)] if cs[0] is not None else [])]


def in_float64(layer: nn.Module, arguments: Call) -> list[Tensor]:
    """What a layer returns in float64, by the reference."""
    exact: Any = copy.deepcopy(layer).double()
    exact.backend = "reference"
    return arguments.of(exact, torch.float64)
