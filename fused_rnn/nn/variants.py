# SPDX-License-Identifier: MIT
"""Layers with other weights and other cells than torch.nn's.

Some compute with weights made of their parameters, on the kernels of the plain cells:

- A coupled LSTM has one gate to write and to forget, f = 1 - i (Greff et al. 2017, "LSTM: A Search
  Space Odyssey", CIFG). As 1 - sigmoid(a) is sigmoid(-a), its f is a gate with the negated weights.
- Heads part the units: the recurrent matrix has a block for each and nothing beside them (Beck et
  al. 2024, "xLSTM", section 2.2). Each head is a recurrence beside the others.
- DropConnect drops recurrent weights, the same at all steps of a call (Merity et al. 2018,
  "Regularizing and Optimizing LSTM Language Models", section 2).

Others have kernels of their own: layer normalisation, zoneout, dropout of the state or of the
candidate, peepholes, other activations and bounds before them. Their equations are in
`backends/reference/varied.py`.
"""

import math
from collections.abc import Container, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout

from .._call.variety import PLAIN, Variety
from ..ops import GATES, LayerOutput
from .conversion.convertible import Convertible

# Those that may be set anew on a layer, as its dropout may.
_NUMBERS = ("recurrent_dropout", "zoneout", "zoneout_cell", "layer_norm_eps")
_MODES = ("variational", "update", "weights")
# The parameters of cells with options, by the names of `Variety.weights`.
_OWN = {
    "x_scale": "weight_ln_ih",
    "h_scale": "weight_ln_hh",
    "c_scale": "weight_ln_cell",
    "c_bias": "bias_ln_cell",
    "peephole": "weight_peephole",
}


class VariedWeights(Convertible, nn.RNNBase):
    """A layer that may have other weights or other cells than torch.nn's.

    What counts is the record `_variety`. The attributes by the options' names tell it to users, and
    give way to what a subclass keeps under such a name.
    """

    _variety = PLAIN
    # The options that the constructor takes, and the modes of dropout that there are.
    _varieties: ClassVar[tuple[str, ...]] = Variety._fields
    _modes: ClassVar[tuple[str, ...]] = _MODES

    def _cell(self) -> str:
        """The name of the equations, a key of `ops.GATES`."""
        raise NotImplementedError

    def _vary(self, **options: Any) -> None:
        """Takes options of the constructor, and with them parameters of other shapes.

        Raises:
            TypeError: a flag is no bool.
            ValueError: another is out of its range, or does not fit the others.
        """
        for name, value in options.items():
            self._check_option(name, value)
        variety = Variety(**options)
        # One object for all plain layers: a call asks no more than whether it is that.
        self._variety = PLAIN if variety == PLAIN else variety
        self.__dict__.update(options)
        if self.proj_size and (variety.block_diagonal > 1 or variety.has_own_cells(training=True)):
            name, value = next(own for own in variety.computing() if own[0] != "coupled")
            plain = getattr(PLAIN, name)
            raise ValueError(f"{name}: expected {plain!r} beside proj_size, got {value!r}")
        if not variety.has_torchs_weights():
            self._remake_parameters()

    def _check_option(self, name: str, value: Any) -> None:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if name in ("coupled", "layer_norm", "peephole"):
            if not isinstance(value, bool):
                raise TypeError(f"{name}: expected a bool, got {value!r}")
        elif name == "forget_bias":
            if value is not None and not self.bias:
                raise ValueError(f"{name}: expected None beside bias=False, got {value!r}")
        elif name == "block_diagonal":
            check_heads(value, self.hidden_size)
        elif name in ("recurrent_dropout", "zoneout", "zoneout_cell"):
            if not number or not 0 <= value <= 1:
                raise ValueError(f"{name}: expected a number in 0..1, got {value!r}")
        elif name == "layer_norm_eps":
            if not number or not value >= 0:
                raise ValueError(f"{name}: expected a number from 0, got {value!r}")
        elif name == "clip":
            if value is not None and not (number and 0 < value < math.inf):
                raise ValueError(f"{name}: expected a positive number or None, got {value!r}")
        else:
            known = {
                "recurrent_dropout_mode": self._modes,
                "activation": ("tanh", "relu"),
                "gate_activation": ("sigmoid", "hard_sigmoid"),
            }[name]
            if value not in known:
                raise ValueError(f"{name}: expected one of {known}, got {value!r}")

    def __setattr__(self, name: str, value: Any) -> None:
        # Of a subclass that keeps something else under such a name it is not ours.
        told = name in _NUMBERS and self.__dict__.get(name) == getattr(self._variety, name)
        if told and isinstance(value, int | float):
            self._check_option(name, value)
            # Not `_replace`, which keeps the type that plain layers are told by.
            variety = Variety(**{**self._variety._asdict(), name: value})
            self._variety = PLAIN if variety == PLAIN else variety
        super().__setattr__(name, value)

    def __getstate__(self) -> dict[str, Any]:
        # A plain tuple: pickles name no more of this package than the module's class.
        state: dict[str, Any] = super().__getstate__()
        return {**state, "_variety": tuple(self._variety)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        if "_variety" in state:
            variety = Variety(*state["_variety"])
        else:
            # Torch.nn's, or of a release that kept the options in attributes alone.
            variety = Variety(**{key: state[key] for key in Variety._fields if key in state})
            state = {**{name: getattr(PLAIN, name) for name in self._varieties}, **state}
        super().__setstate__({**state, "_variety": PLAIN if variety == PLAIN else variety})

    @classmethod
    def _plain_attributes(cls, module: nn.Module) -> dict[str, Any]:
        """The record, and what tells users of it, but for names that `module` has."""
        names = [name for name in cls._varieties if not hasattr(module, name)]
        return {"_variety": PLAIN, **{name: getattr(PLAIN, name) for name in names}}

    def _told_attributes(self) -> tuple[str, ...]:
        """The names of the record, and of what tells users of it and is not a subclass' own."""
        own, missing = self._variety._asdict().items(), object()
        told = [name for name, value in own if self.__dict__.get(name, missing) == value]
        return ("_variety", *told)

    def _not_of_torch(self) -> list[tuple[str, Any, Any]]:
        """The options by which this computes what torch.nn's twin does not, values, and its own."""
        own = [(name, value, getattr(PLAIN, name)) for name, value in self._variety.computing()]
        return [*super()._not_of_torch(), *own]

    @classmethod
    def own_text(cls, module: nn.Module, without: Container[str] = ()) -> str:
        """The text of a module's options that torch.nn lacks, but for defaults."""
        own: Variety = getattr(module, "_variety", PLAIN)
        told = "".join(f", {name}={value}" for name, value in own.differing())
        return super().own_text(module, without) + told

    def _infers_as_torch(self) -> bool:
        """Whether it computes in evaluation what torch.nn's layer does of the same weights."""
        own = self._variety
        return own.has_torchs_weights() and not own.has_own_cells(training=False)

    # ---- parameters

    def _remake_parameters(self) -> None:
        """Parameters of this layer's own shapes in place of torch.nn's, and those it adds."""
        for name in list(self._flat_weights_names):
            old: Tensor = getattr(self, name)
            setattr(self, name, nn.Parameter(old.new_empty(self._own_shape(name, old))))
        like: Tensor = getattr(self, self._flat_weights_names[0])
        for names in self._all_weights:
            suffix = names[0].removeprefix("weight_ih")
            for role in self._variety.weights(self._cell(), self.bias):
                if role in _OWN:
                    rows = self._rows(role) * self.hidden_size
                    self.register_parameter(_OWN[role] + suffix, nn.Parameter(like.new_empty(rows)))
                    names.append(_OWN[role] + suffix)
        self._flat_weights_names = [name for names in self._all_weights for name in names]
        self.reset_parameters()

    def _rows(self, role: str) -> int:
        """The blocks of H that a vector of cells with options has."""
        if role in ("c_scale", "c_bias"):
            return 1
        return (3 if role == "peephole" else GATES[self._cell()]) - self._variety.coupled

    def reset_parameters(self) -> None:
        """Draws the parameters anew, as torch.nn does; normalisation begins with 1 and 0."""
        super().reset_parameters()
        if not self._variety.layer_norm:
            return
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if name.startswith(("weight_ln", "bias_ln")):
                    parameter.fill_(name.startswith("weight"))

    def _own_shape(self, name: str, torchs: Tensor) -> tuple[int, ...]:
        rows, *columns = torchs.shape
        if name.startswith("weight_hr"):
            return tuple(torchs.shape)
        if self._variety.coupled:
            rows = rows // 4 * 3
        if name.startswith("weight_hh"):
            columns = [columns[0] // self._variety.block_diagonal]
        return (rows, *columns)

    def _plain_weights(self, weights: Sequence[Tensor]) -> list[Tensor]:
        """The weights of recurrences without coupled gates and heads that compute what these do.

        Args:
            weights: in torch.nn's order, layer by layer, direction by direction; behind each
                direction's those that its cells add.

        Returns:
            The same with the heads of a direction one after the other.
        """
        found: list[Tensor] = []
        names = self._variety.weights(self._cell(), self.bias)
        names = (*names, *(["w_hr"] if self.proj_size else []))
        for at in range(0, len(weights), len(names)):
            own = list(weights[at : at + len(names)])
            if self.training and self._variety.drops_weights:
                own[1] = dropout(own[1], self._variety.drops_weights)
            if self._variety.coupled:
                own = [_with_forget_gate(*one) for one in zip(names, own, strict=True)]
            found += by_head(own, self._variety.block_diagonal, self.hidden_size)
        return found


def check_heads(heads: Any, hidden: int) -> None:
    """Raises ValueError unless `heads` is a number that parts the hidden units."""
    if isinstance(heads, bool) or not isinstance(heads, int) or heads < 1:
        raise ValueError(f"block_diagonal: expected a number of heads from 1, got {heads!r}")
    if hidden % heads:
        raise ValueError(f"block_diagonal: expected a divisor of hidden_size {hidden}, got {heads}")


def by_head(weights: Sequence[Tensor], heads: int, hidden: int) -> list[Tensor]:
    """The weights of one direction, those of each head one after the other."""
    if heads == 1:
        return list(weights)
    parts = [
        w.unflatten(0, (len(w) // hidden, heads, -1)).transpose(0, 1).flatten(1, 2).unbind()
        for w in weights
    ]
    return [w for own in zip(*parts, strict=True) for w in own]


def _with_forget_gate(name: str, weight: Tensor) -> Tensor:
    """The rows of gates i f g o of rows i g o, with f = 1 - i; of peepholes i f o of i o."""
    if name in ("w_hr", "c_scale", "c_bias"):
        return weight
    i, *others = weight.chunk(2 if name == "peephole" else 3)
    # What is normalised is negated before it is scaled.
    return torch.cat((i, i if name in ("x_scale", "h_scale") else -i, *others))


def parted(state: Tensor, heads: int) -> Tensor:
    """States (N, B, H) of layers as those of their heads, (N * heads, B, H / heads)."""
    return state.unflatten(-1, (heads, -1)).transpose(1, 2).flatten(0, 1)


def joined(output: LayerOutput, heads: int) -> LayerOutput:
    """The results of heads with the final states of their layers, (N, B, H)."""
    y, *states = output
    own: list[Any] = [
        None if s is None else s.unflatten(0, (-1, heads)).transpose(1, 2).flatten(2)
        for s in states
    ]
    return LayerOutput(y, *own)
