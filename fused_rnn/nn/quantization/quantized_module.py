# SPDX-License-Identifier: MIT
"""The base of quantized layers and cells: their weights, the choice of kernels, checks."""

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, ClassVar, TypeVar, cast

import torch
from torch import Tensor

from ... import extensions
from ..._call.functorch import records_gradient
from ...backends import choice
from ...backends.reference import INTEGERS, reference_layer
from ...ops import stored_forward
from ..conversion.convertible import AS_BUILTIN, Convertible, recast
from ..conversion.identity import Passing
from ..flat_weights import CACHES
from ..variants import VariedWeights
from .stored import PROJECTION, FixedTypes, StoredWeight, panels_of

Q = TypeVar("Q", bound="Quantized")
Layer = Callable[..., Sequence[Any]]


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
            ValueError: a weight is infinite or no number, or the module has options by which it
                computes something else in evaluation than torch.nn's.
        """
        if isinstance(module, VariedWeights) and not module._infers_as_torch():
            got = module.own_text(module).removeprefix(", ")
            expected = "expected one without coupled gates, heads or cells with options"
            raise ValueError(f"module: {expected}, got {got}")
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
        """The fused module, in float32, with the values that the stored weights stand for."""
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
        """Flags of a layer's recurrences, 1 where one walks backward in time."""
        raise NotImplementedError

    def _suffixes(self) -> list[str]:
        """The endings of the names of a recurrence's weights, recurrence by recurrence."""
        raise NotImplementedError

    def _names(self) -> list[str]:
        return [f"{name}{suffix}" for suffix in self._suffixes() for name in self._stems()]

    def _stems(self) -> list[str]:
        stems = ["weight_ih", "weight_hh"]
        if getattr(self, "proj_size", 0):
            stems.append("weight_hr")
        return stems + ["bias_ih", "bias_hh"] * bool(self.bias)

    def _layer_of(self, suffixes: Sequence[str]) -> Layer:
        """A function of x (T, B, I), h, c, lengths and resets that runs one layer."""
        reverse = self._reverse()
        cell, hidden = self._cell(), self.hidden_size
        output = getattr(self, "proj_size", 0) or hidden

        def own_layer(x: Tensor, h: Any, c: Any, lengths: Any, resets: Any) -> Sequence[Any]:
            if choice.is_explaining():
                raise choice.Explained(self._explain(x))
            if not has_kernels(x):
                return self._run_reference(suffixes, reverse, x, h, c, lengths, resets)
            weights = [t for suffix in suffixes for t in self._tensors(suffix)]
            return stored_forward(x, h, c, weights, lengths, resets, cell, reverse, hidden, output)

        return own_layer

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
        choice.warn_once(
            "fused_rnn: no fused kernel serves quantized layers here, 'reference' runs instead",
            f"native: {extensions.why_unavailable() or 'they run on the CPU'}",
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
        if not has_kernels(x):
            elsewhere = f"its kernels run on the CPU, not on {x.device}"
            reason = extensions.why_unavailable() or elsewhere
            return f"reference runs this with {self.storage} weights\n  not native: {reason}"
        used = extensions.stored_instruction_set(self.storage)
        return f"native runs this with {self.storage} weights on {used}"

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


def has_kernels(x: Tensor) -> bool:
    """Whether kernels serve an input."""
    return extensions.why_unavailable() is None and x.device.type in ("cpu", "meta")


def in_float32(*tensors: Tensor) -> list[Tensor]:
    """The tensors, in float32 where autocast is on, whose types these modules do not compute in."""
    lowered = tensors and torch.is_autocast_enabled(tensors[0].device.type)
    return [t.float() if lowered and t.is_floating_point() else t for t in tensors]
