# SPDX-License-Identifier: MIT
"""The weights of a layer in torch.nn's order, and the list of them that nn.RNNBase keeps."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeGuard

import torch
from torch import Tensor, nn
from torch.backends import cudnn
from torch.backends.cudnn.rnn import get_cudnn_mode
from torch.nn.utils import parametrize

from .._call.validation import check_present
from ..backends import choice
from ..backends.backend import query_of

Weights = list[Tensor | None]

# What nn.RNNBase keeps of its weights beside the attributes, and what FlatWeights does.
CACHES = ("_flat_weights", "_flat_weight_refs", "_handed_out")


class _HandedOut(NamedTuple):
    """A list of weights that others may write to, and the attributes it was made of."""

    weights: Weights
    attributes: Weights


class FlatWeights(nn.RNNBase):
    """nn.RNNBase with a list `_flat_weights` that is made when somebody asks for it.

    Until then each call looks its weights up, whoever put them there. From then on a call takes
    those of the list, as in torch.nn: any tensor may stand there in place of a weight, and leaves
    the attribute as it was. Once an attribute is found to be another object, the list is forgotten.
    """

    _handed_out: _HandedOut | None = None
    backend: str

    def _cell(self) -> str:
        """The name of the equations, a key of `ops.GATES`."""
        raise NotImplementedError

    def _reverse(self) -> tuple[int, ...]:
        """Flags of a layer's recurrences, 1 where one walks backward in time."""
        raise NotImplementedError

    def __init__(self, *options: Any) -> None:
        super().__init__(*options)
        del self._flat_weight_refs

    def _weights(self) -> list[Tensor]:
        """The weights to compute with, in torch.nn's order."""
        if self._handed_out is not None:
            weights: list[Any] = self._handed_out.weights
            if self._weights_have_changed():
                self._init_flat_weights()
            elif all(weight is not None for weight in weights):
                return list(weights)
        parameters: dict[str, Any] = self._parameters
        names = self._flat_weights_names
        try:
            weights = [parameters[name] for name in names]
        except KeyError:
            # Some are parametrized, or plain tensors: replicas, weight drop, weight_norm.
            weights = [getattr(self, name) for name in names]
        check_present(weights, names)
        return weights

    def _attributes(self) -> Weights:
        return [getattr(self, name, None) for name in self._flat_weights_names]

    @property
    def _flat_weights(self) -> Weights:
        if self._handed_out is None:
            attributes = self._attributes()
            if parametrize.is_parametrized(self):
                # Another object at each look: such a list would be forgotten at once.
                return attributes
            self._handed_out = _HandedOut(list(attributes), attributes)
        return self._handed_out.weights

    @_flat_weights.setter
    def _flat_weights(self, weights: Weights) -> None:
        expected = len(self._flat_weights_names)
        if len(weights) != expected:
            raise ValueError(f"_flat_weights: expected {expected} tensors, got {len(weights)}")
        self._handed_out = _HandedOut(weights, self._attributes())

    def _weights_have_changed(self) -> bool:
        if self._handed_out is None:
            return False
        pairs = zip(self._attributes(), self._handed_out.attributes, strict=True)
        # Where one of them is missing, torch.nn goes on with what it has.
        return any(a is not b and a is not None and b is not None for a, b in pairs)

    def _init_flat_weights(self) -> None:
        if self._handed_out is not None:
            del self._handed_out

    def flatten_parameters(self) -> None:
        """Lays the weights out as cuDNN wants them, where it is what would run this layer.

        Weights of one call stand in one buffer, in cuDNN's order; from anywhere else it would copy
        them at each call, and say so. A call runs the whole stack, or with dropout, which is
        PyTorch's own here, a layer of it; the unit follows `dropout` as it is when this is called.
        Parameters stay the same objects. What lies so already is left where it is, and so are
        weights that share their memory, are computed anew for each call, or are no plain tensors.

        Our own kernels, and PyTorch's layers on other devices, take weights wherever they lie.
        """
        if torch.compiler.is_compiling():
            # Called from a forward, as is usual: a graph moves no parameters.
            return
        weights = [self._parameters.get(name) for name in self._flat_weights_names]
        if not self._are_for_cudnn(weights):
            return
        # As many as PyTorch's functions are given at once, by `stack`.
        layers, directions = 1 if self.dropout else self.num_layers, 2 if self.bidirectional else 1
        per = len(weights) // self.num_layers
        units = [weights[at : at + per * layers] for at in range(0, len(weights), per * layers)]
        if _have_buffers(units):
            return
        inputs = self.input_size
        with torch.cuda.device_of(weights[0]), torch.no_grad():
            for unit in units:
                torch._cudnn_rnn_flatten_weight(
                    unit,
                    per // directions,
                    inputs,
                    get_cudnn_mode(self.mode),
                    self.hidden_size,
                    self.proj_size,
                    layers,
                    self.batch_first,
                    bool(self.bidirectional),
                )
                inputs = (self.proj_size or self.hidden_size) * directions

    def _are_for_cudnn(self, weights: list[Any]) -> TypeGuard[list[Tensor]]:
        first = weights[0]
        if any(type(weight) is not nn.Parameter for weight in weights) or not _suits_cudnn(first):
            return False
        if any((w.dtype, w.device) != (first.dtype, first.device) for w in weights):
            return False
        if len({weight.data_ptr() for weight in weights}) != len(weights):
            return False
        query = query_of(
            self._cell(),
            first,
            self.hidden_size,
            self._reverse(),
            projection=self.proj_size > 0,
        )
        return choice.planned(query, self.backend) == "torch"

    def __setattr__(self, name: str, value: Any) -> None:
        if self._handed_out is not None and name in self._flat_weights_names:
            self._handed_out.weights[self._flat_weights_names.index(name)] = value
        nn.Module.__setattr__(self, name, value)

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = nn.Module.__getstate__(self)
        return {name: value for name, value in state.items() if name not in CACHES}

    def __setstate__(self, state: dict[str, Any]) -> None:
        # It brings what old versions saved to today's form, for torch.nn's own layers too.
        super().__setstate__(state)
        for name in CACHES:
            self.__dict__.pop(name, None)
        # A copy in memory has a place of its own for each weight.
        self.flatten_parameters()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        self._init_flat_weights()
        moved = nn.Module._apply(self, fn, recurse)
        self.flatten_parameters()
        return moved

    def _load_from_state_dict(self, *arguments: Any) -> None:
        before = self._addresses()
        super()._load_from_state_dict(*arguments)
        if self._addresses() != before:
            # Other parameters or memory: with `assign`, or swapped. A copy stays where it is.
            self.flatten_parameters()

    def _addresses(self) -> list[int]:
        """The addresses of the weights that cuDNN could take."""
        weights = [self._parameters.get(name) for name in self._flat_weights_names]
        plain = [weight for weight in weights if type(weight) is nn.Parameter]
        return [weight.data_ptr() for weight in plain if _suits_cudnn(weight)]

    def _replicate_for_data_parallel(self) -> nn.Module:
        replica: FlatWeights = nn.Module._replicate_for_data_parallel(self)
        replica._init_flat_weights()
        return replica


def _suits_cudnn(weight: Tensor) -> bool:
    suits = weight.is_cuda and cudnn.is_acceptable(weight)
    return bool(suits and torch._use_cudnn_rnn_flatten_weight())


def _have_buffers(units: list[list[Tensor]]) -> bool:
    """Whether each unit has a buffer of its own, which begins with its first weight."""
    buffers = [{weight.untyped_storage().data_ptr() for weight in unit} for unit in units]
    begin = all(unit[0].storage_offset() == 0 for unit in units)
    return begin and len(set.union(*buffers)) == sum(map(len, buffers)) == len(units)


def carry_replaced(old: nn.RNNBase, new: nn.RNNBase) -> None:
    """Makes `new` compute with the tensors that stand in the list of `old` in place of weights."""
    if isinstance(old, FlatWeights) and old._handed_out is None:
        return
    if parametrize.is_parametrized(old) or old._weights_have_changed():
        return
    weights = old._flat_weights
    attributes = (getattr(old, name, None) for name in old._flat_weights_names)
    if any(a is not b for a, b in zip(weights, attributes, strict=True)):
        new._flat_weights = list(weights)
