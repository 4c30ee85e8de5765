# SPDX-License-Identifier: MIT
"""Layers and cells for inference whose weights take 8 or 16 bits each."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..._call import validation
from ..._call.arguments import Arguments, run_on_grid
from ..._call.pieces import Passed
from ..._call.stack import inferred_stack
from ...ops import LayerOutput, contiguous
from ..cells import FusedCell, FusedGRUCell, FusedLSTMCell, FusedRNNCell
from ..conversion.convertible import Convertible
from ..layers import FusedGRU, FusedLSTM, FusedRNN
from ..piecewise import Steps
from ..sequence_forms import SequenceForms
from .quantized_module import Quantized, has_kernels, in_float32

# Stands for weights where checks compare their type.
_FLOAT32 = torch.empty(0, device="cpu")


class QuantizedLayer(Quantized, SequenceForms):
    """The base of the three quantized layers."""

    num_layers: int
    batch_first: bool
    bidirectional: bool
    proj_size: int

    _reverse = SequenceForms._reverse

    def _weights(self) -> list[Tensor]:
        return []

    def _suffixes(self) -> list[str]:
        ends = ("", "_reverse")[: 2 if self.bidirectional else 1]
        return [f"_l{layer}{end}" for layer in range(self.num_layers) for end in ends]

    def _run_layers(
        self, given: Arguments, weights: list[Tensor], kept: list[Passed] | None = None
    ) -> LayerOutput:
        """The outputs and final states of all layers."""
        self._check(given.x, *given.states)
        x, *states = in_float32(given.x, *given.states)
        validation.check_sequence(x, _FLOAT32, self.input_size)
        validation.check_state_sizes(states, self._state_shapes(given.batch))
        for state in states:
            validation.check_state_like(state, x)
        suffixes, directions = self._suffixes(), len(self._reverse())
        layers = [
            self._layer_of(suffixes[at : at + directions])
            for at in range(0, len(suffixes), directions)
        ]
        given = given.with_tensors(x, states)
        if has_kernels(x):
            return inferred_stack(layers, given, kept)
        return run_on_grid(lambda given: inferred_stack(layers, given, kept), given, kept)

    def _check_pieces(self, given: Arguments, weights: list[Tensor], steps: Steps) -> None:
        if steps.wanted and self._cell() == "lstm":
            raise RuntimeError(
                f"return_states: expected float weights for the LSTM's cell states, "
                f"got {self.storage}"
            )
        super()._check_pieces(given, weights, steps)

    def _fused(self) -> Any:
        options: dict[str, Any] = {
            "num_layers": self.num_layers,
            "bias": self.bias,
            "batch_first": self.batch_first,
            "dropout": getattr(self, "dropout", 0.0),
            "bidirectional": self.bidirectional,
            "direction": self.direction,
        }
        return self._fused_class(self.input_size, self.hidden_size, **options, **self._own())

    def _own(self) -> dict[str, Any]:
        """The options that only layers of this class have."""
        return {}


class QuantizedRNN(QuantizedLayer):
    """FusedRNN for inference, with weights of 8 or 16 bits."""

    _kind, _torch_class, _fused_class = "RNN", nn.RNN, FusedRNN
    _cell = FusedRNN._cell

    def _own(self) -> dict[str, Any]:
        return {"nonlinearity": self.nonlinearity}


class QuantizedGRU(QuantizedLayer):
    """FusedGRU for inference, with weights of 8 or 16 bits."""

    _kind, _torch_class, _fused_class = "GRU", nn.GRU, FusedGRU
    _cell = FusedGRU._cell

    def _own(self) -> dict[str, Any]:
        return {"reset_after": self.reset_after}


class QuantizedLSTM(QuantizedLayer):
    """FusedLSTM for inference, with weights of 8 or 16 bits."""

    _kind, _torch_class, _fused_class = "LSTM", nn.LSTM, FusedLSTM
    _cell, _states = FusedLSTM._cell, FusedLSTM._states

    def _own(self) -> dict[str, Any]:
        return {"proj_size": self.proj_size}


class QuantizedCell(Quantized):
    """The base of the three quantized cells, each a layer of one step."""

    _kind: ClassVar[str]
    _step = FusedCell._step

    def _weights(self) -> list[Tensor]:
        return []

    def _suffixes(self) -> list[str]:
        return [""]

    def _reverse(self) -> tuple[int, ...]:
        return (0,)

    def _run_step(self, x: Tensor, states: Sequence[Tensor], _: list[Tensor]) -> tuple[Tensor, ...]:
        self._check(x, *states)
        x, *states = in_float32(x, *states)
        validation.check_cell_sizes(x, states, self.input_size, self.hidden_size)
        if x.dtype != torch.float32:
            raise RuntimeError(
                f"input and weight must have the same dtype, but got {x.dtype} and torch.float32"
            )
        for state in states:
            validation.check_state_like(state, x)
        x, h0, c0 = contiguous(x, *(*states, None, None)[:2])
        _, hn, cn = self._layer_of(("",))(x, h0, c0, None, None)
        return (hn,) if cn is None else (hn, cn)

    def _fused(self) -> Any:
        return self._fused_class(self.input_size, self.hidden_size, self.bias, **self._own())

    def _own(self) -> dict[str, Any]:
        """The options that only cells of this class have."""
        return {}


class QuantizedRNNCell(QuantizedCell):
    """FusedRNNCell for inference, with weights of 8 or 16 bits."""

    _kind, _torch_class, _fused_class = "RNNCell", nn.RNNCell, FusedRNNCell
    _cell, forward = FusedRNNCell._cell, FusedRNNCell.forward

    def _own(self) -> dict[str, Any]:
        return {"nonlinearity": self.nonlinearity}


class QuantizedGRUCell(QuantizedCell):
    """FusedGRUCell for inference, with weights of 8 or 16 bits."""

    _kind, _torch_class, _fused_class = "GRUCell", nn.GRUCell, FusedGRUCell
    _cell, forward = FusedGRUCell._cell, FusedGRUCell.forward

    def _own(self) -> dict[str, Any]:
        return {"reset_after": self.reset_after}


class QuantizedLSTMCell(QuantizedCell):
    """FusedLSTMCell for inference, with weights of 8 or 16 bits."""

    _kind, _torch_class, _fused_class = "LSTMCell", nn.LSTMCell, FusedLSTMCell
    _cell, forward = FusedCell._cell, FusedLSTMCell.forward


QUANTIZED: dict[type[Convertible], type[Quantized]] = {
    cls._fused_class: cls
    for cls in (
        *(QuantizedRNN, QuantizedGRU, QuantizedLSTM),
        *(QuantizedRNNCell, QuantizedGRUCell, QuantizedLSTMCell),
    )
}
