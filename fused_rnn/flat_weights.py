# SPDX-License-Identifier: MIT
"""The weights of a layer in torch.nn's order, and the list of them that nn.RNNBase keeps."""

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.nn.utils import parametrize

from .validation import check_present

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
        """Nothing: the kernels take weights wherever they lie."""

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

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        self._init_flat_weights()
        return nn.Module._apply(self, fn, recurse)

    def _replicate_for_data_parallel(self) -> nn.Module:
        replica: FlatWeights = nn.Module._replicate_for_data_parallel(self)
        replica._init_flat_weights()
        return replica


def carry_replaced(old: nn.RNNBase, new: nn.RNNBase) -> None:
    """Has `new` compute with what stands in the list of `old` in place of weights."""
    if isinstance(old, FlatWeights) and old._handed_out is None:
        return
    if parametrize.is_parametrized(old) or old._weights_have_changed():
        return
    weights = old._flat_weights
    attributes = (getattr(old, name, None) for name in old._flat_weights_names)
    if any(a is not b for a, b in zip(weights, attributes, strict=True)):
        new._flat_weights = list(weights)
