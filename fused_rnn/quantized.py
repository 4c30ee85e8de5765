# SPDX-License-Identifier: MIT
"""Layers and cells for inference whose weights take 8 or 16 bits each."""

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, ClassVar, TypeVar, cast

import torch
from torch import Tensor, nn

from . import backends, native, validation
from .autograd import contiguous, records_gradient
from .calls import Call, run_on_grid
from .cells import FusedCell, FusedGRUCell, FusedLSTMCell, FusedRNNCell
from .conversion import AS_BUILTIN, Convertible, recast
from .flat_weights import CACHES
from .forms import SequenceForms
from .identity import Passing
from .modules import FusedGRU, FusedLSTM, FusedRNN
from .ops import LayerOutput, stored_forward
from .piecewise import Steps
from .reference import INTEGERS
from .reference import layer as reference_layer
from .stacks import inferred_stack
from .stored import PROJECTION, FixedTypes, StoredWeight, panels_of

Q = TypeVar("Q", bound="Quantized")
Run = Callable[..., Sequence[Any]]
# Stands for weights where checks compare their type.
_FLOAT32 = torch.empty(0, device="cpu")


class Quantized(Passing, FixedTypes):
    """A recurrent module whose weights are stored in fewer bits: inference only, in float32.

    int8: of each row of weights and of each row they meet (an input, a state), the integers nearest
    to its numbers times 127 over the largest magnitude among them; sums are exact, gates and cell
    states float32. A row with an infinity or NaN gives NaN. bfloat16, float16: the weights nearest
    to those in float32; all else is float32.
    """

    _fused_class: ClassVar[type[Convertible]]
    storage: str
    hidden_size: int
    input_size: int
    bias: bool

    @classmethod
    def of(cls: type[Q], module: Convertible, storage: str) -> Q:
        """The module's twin with weights in `storage`; the two share no tensor.

        Raises:
            ValueError: a weight is infinite or no number.
        """
        new = recast(module, cls, without=(*CACHES, *AS_BUILTIN, "backend"), storage=storage)
        for name in new._names():
            weight = cast(Tensor, module._parameters[name])
            del new._parameters[name]
            if name.startswith("bias"):
                new.register_buffer(name, weight.detach().float().clone())
            else:
                parts = PROJECTION if name.startswith("weight_hr") else panels_of(new._cell())
                new._modules[name] = StoredWeight(weight, name, storage, parts)
        return new

    def dequantize(self) -> Any:
        """The fused module, in float32, whose weights are what these stand for."""
        fused = self._fused()
        own = dict(fused.named_parameters())
        with torch.no_grad():
            for name in self._names():
                value = getattr(self, name)
                own[name].copy_(value.dequantize() if isinstance(value, StoredWeight) else value)
        return fused.train(self.training)

    def _cell(self) -> str:
        """The name of the equations, a key of `ops.GATES`."""
        raise NotImplementedError

    def _fused(self) -> Convertible:
        """A fused module of these sizes and options."""
        raise NotImplementedError

    def _reverse(self) -> tuple[int, ...]:
        """Of each recurrence of a layer, 1 where it walks backward in time."""
        raise NotImplementedError

    def _suffixes(self) -> list[str]:
        """What the names of a recurrence's weights end in, recurrence by recurrence."""
        raise NotImplementedError

    def _names(self) -> list[str]:
        return [f"{name}{suffix}" for suffix in self._suffixes() for name in self._stems()]

    def _stems(self) -> list[str]:
        stems = ["weight_ih", "weight_hh"]
        if getattr(self, "proj_size", 0):
            stems.append("weight_hr")
        return stems + ["bias_ih", "bias_hh"] * bool(self.bias)

    def _run_layer(self, suffixes: Sequence[str]) -> Run:
        """One layer, over x (T, B, I) and its own states, lengths and resets."""
        reverse = self._reverse()
        cell, hidden = self._cell(), self.hidden_size
        output = getattr(self, "proj_size", 0) or hidden

        def run(x: Tensor, h: Any, c: Any, lengths: Any, resets: Any) -> Sequence[Any]:
            if backends.is_explaining():
                raise backends.Explained(self._explain(x))
            if not _has_kernels(x):
                return self._run_reference(suffixes, reverse, x, h, c, lengths, resets)
            weights = [t for suffix in suffixes for t in self._tensors(suffix)]
            return stored_forward(x, h, c, weights, lengths, resets, cell, reverse, hidden, output)

        return run

    def _tensors(self, suffix: str) -> list[Tensor]:
        """The weights of a recurrence as the op takes them."""
        # Not by attributes: a step of a small cell takes no longer than looking those up.
        modules: dict[str, Any] = self._modules
        buffers: dict[str, Any] = self._buffers
        names = [f"{stem}{suffix}" for stem in self._stems()]
        tensors = [modules[name].tensors() for name in names if name in modules]
        if self._cell() == "gru_reset_before":
            # The gate n comes behind the other gates of both matrices.
            half = len(tensors[0]) // 2
            tensors = [own[part] for part in (slice(half), slice(half, None)) for own in tensors]
        return [*chain.from_iterable(tensors), *(buffers[n] for n in names if n in buffers)]

    def _run_reference(self, suffixes: Sequence[str], reverse: Sequence[int], *given: Any) -> Any:
        backends.warn_once(
            "fused_rnn: no fused kernel serves quantized layers here, 'reference' runs instead",
            f"native: {native.why_unavailable() or 'they run on the CPU'}",
        )
        weights: list[Tensor] = []
        for suffix in suffixes:
            own = {stem: getattr(self, f"{stem}{suffix}") for stem in self._stems()}
            values = {
                stem: value.dequantize() if isinstance(value, StoredWeight) else value
                for stem, value in own.items()
            }
            order = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")
            weights += [values[stem] for stem in order if stem in values]
        x, h, c, lengths, resets = given
        step = x.dim() == 2
        if step:
            x, h, c = (None if t is None else t.unsqueeze(0) for t in (x, h, c))
        rows = INTEGERS if self.storage == "int8" else 6
        y, hn, cn = reference_layer(
            x, h, c, weights, lengths, resets, cell=self._cell(), reverse=reverse, products=rows
        )
        y = y.flatten(-2)
        if step:
            y, hn, cn = y.squeeze(0), hn.squeeze(0), None if cn is None else cn.squeeze(0)
        return y, hn, cn

    def _explain(self, x: Tensor) -> str:
        """A description of what would run an input."""
        if not _has_kernels(x):
            reason = native.why_unavailable() or f"its kernels run on the CPU, not on {x.device}"
            return f"reference runs this with {self.storage} weights\n  not native: {reason}"
        return f"native runs this with {self.storage} weights on {native.stored_instruction_set()}"

    def _check(self, *inputs: Tensor) -> None:
        """Raises RuntimeError where training is asked for."""
        if self.training:
            raise RuntimeError(
                f"{type(self).__name__}: expected evaluation, as its weights are stored for "
                "inference only, got training mode; call eval(), or train before quantize"
            )
        if records_gradient(*inputs):
            raise RuntimeError(
                f"{type(self).__name__}: expected no gradients to be recorded, as its weights are "
                "stored for inference only, got an input that requires grad; use torch.no_grad()"
            )

    def extra_repr(self) -> str:
        """The fused module's text but for its backend, and how weights are stored."""
        torch_class: Any = self._torch_class
        own = self._fused_class.own_text(self, without=("backend",))
        return f"{torch_class.extra_repr(self)}{own}, weights={self.storage!r}"


def _has_kernels(x: Tensor) -> bool:
    return native.why_unavailable() is None and x.device.type in ("cpu", "meta")


def _in_float32(*tensors: Tensor) -> list[Tensor]:
    """Under autocast, whose types these modules do not compute in, the tensors in float32."""
    lowered = tensors and torch.is_autocast_enabled(tensors[0].device.type)
    return [t.float() if lowered and t.is_floating_point() else t for t in tensors]


class QuantizedLayer(Quantized, SequenceForms):
    """What the three quantized layers share."""

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

    def _run(self, call: Call) -> LayerOutput:
        """The outputs and final states of all layers."""
        self._check(call.x, *call.states)
        x, *states = _in_float32(call.x, *call.states)
        validation.check_sequence(x, _FLOAT32, self.input_size)
        validation.check_state_sizes(states, self._state_shapes(call.batch()))
        for state in states:
            validation.check_state_like(state, x)
        h0, c0 = (*states, None, None)[:2]
        suffixes, directions = self._suffixes(), len(self._reverse())
        runs = [
            self._run_layer(suffixes[at : at + directions])
            for at in range(0, len(suffixes), directions)
        ]
        lengths, resets, packing, kept = call[3:]
        if packing is None or _has_kernels(x):
            lengths = lengths if packing is None else packing.lengths
            return inferred_stack(runs, x, h0, c0, lengths, resets, kept)

        def run(x: Tensor, lengths: Tensor | None, resets: Tensor | None) -> LayerOutput:
            return inferred_stack(runs, x, h0, c0, lengths, resets, kept)

        return run_on_grid(run, x, resets, packing, kept)

    def _check_pieces(self, call: Call, steps: Steps) -> None:
        if steps.wanted and self._cell() == "lstm":
            raise RuntimeError(
                f"return_states: expected float weights for the LSTM's cell states, "
                f"got {self.storage}"
            )
        super()._check_pieces(call, steps)

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
    """What the three quantized cells share: a layer of one step."""

    _kind: ClassVar[str]
    _step = FusedCell._step

    def _weights(self) -> list[Tensor]:
        return []

    def _suffixes(self) -> list[str]:
        return [""]

    def _reverse(self) -> tuple[int, ...]:
        return (0,)

    def _run(self, x: Tensor, states: Sequence[Tensor], _: list[Tensor]) -> tuple[Tensor, ...]:
        self._check(x, *states)
        x, *states = _in_float32(x, *states)
        validation.check_cell_sizes(x, states, self.input_size, self.hidden_size)
        if x.dtype != torch.float32:
            raise RuntimeError(
                f"input and weight must have the same dtype, but got {x.dtype} and torch.float32"
            )
        for state in states:
            validation.check_state_like(state, x)
        x, h0, c0 = contiguous(x, *(*states, None, None)[:2])
        _, hn, cn = self._run_layer(("",))(x, h0, c0, None, None)
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
