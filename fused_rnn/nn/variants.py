# SPDX-License-Identifier: MIT
"""Layers that compute with weights made of their parameters, on the kernels of the plain cells.

- A coupled LSTM has one gate to write and to forget, f = 1 - i (Greff et al. 2017, "LSTM: A Search
  Space Odyssey", CIFG). As 1 - sigmoid(a) is sigmoid(-a), its f is a gate with the negated weights.
- Heads part the units: the recurrent matrix has a block for each and nothing beside them (Beck et
  al. 2024, "xLSTM", section 2.2). Each head is a recurrence beside the others.
- DropConnect drops recurrent weights, the same at all steps of a call (Merity et al. 2018,
  "Regularizing and Optimizing LSTM Language Models", section 2).
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout

from ..ops import GATES, LayerOutput

# The options of the constructor.
VARIED = ("coupled", "block_diagonal", "recurrent_dropout", "recurrent_dropout_mode")


class VariedWeights(nn.RNNBase):
    """A layer that may have coupled gates, heads, and dropout on its recurrent weights."""

    # The values with which a layer computes what torch.nn's does.
    coupled = False
    block_diagonal = 1
    recurrent_dropout = 0.0
    recurrent_dropout_mode = "variational"

    def _cell(self) -> str:
        """The name of the equations, a key of `ops.GATES`."""
        raise NotImplementedError

    def _vary(
        self,
        *,
        coupled: bool = False,
        block_diagonal: int,
        recurrent_dropout: float,
        recurrent_dropout_mode: str,
    ) -> None:
        """Takes options of the constructor, and with them parameters of other shapes.

        Raises:
            TypeError: `coupled` is no bool.
            ValueError: another is out of its range, or does not fit the others.
        """
        if not isinstance(coupled, bool):
            raise TypeError(f"coupled: expected a bool, got {coupled!r}")
        heads, chance = block_diagonal, recurrent_dropout
        if isinstance(heads, bool) or not isinstance(heads, int) or heads < 1:
            raise ValueError(f"block_diagonal: expected a number of heads from 1, got {heads!r}")
        if self.hidden_size % heads:
            raise ValueError(
                f"block_diagonal: expected a divisor of hidden_size {self.hidden_size}, got {heads}"
            )
        if heads > 1 and self.proj_size:
            raise ValueError(f"block_diagonal: expected 1 beside proj_size, got {heads}")
        if isinstance(chance, bool) or not isinstance(chance, int | float) or not 0 <= chance <= 1:
            raise ValueError(f"recurrent_dropout: expected a number in 0..1, got {chance!r}")
        if chance and recurrent_dropout_mode != "weights":
            raise ValueError(
                "recurrent_dropout_mode: expected 'weights', the one that there is, "
                f"got {recurrent_dropout_mode!r}"
            )
        self.coupled, self.block_diagonal = coupled, heads
        self.recurrent_dropout, self.recurrent_dropout_mode = chance, recurrent_dropout_mode
        if not self._has_torchs_weights():
            for name in self._flat_weights_names:
                old: Tensor = getattr(self, name)
                setattr(self, name, nn.Parameter(old.new_empty(self._own_shape(name, old))))
            self.reset_parameters()

    def _has_torchs_weights(self) -> bool:
        """Whether the parameters are those that torch.nn's layer has."""
        return self.block_diagonal == 1 and not self.coupled

    def _own_shape(self, name: str, torchs: Tensor) -> tuple[int, ...]:
        rows, *columns = torchs.shape
        if name.startswith("weight_hr"):
            return tuple(torchs.shape)
        if self.coupled:
            rows = rows // 4 * 3
        if name.startswith("weight_hh"):
            columns = [columns[0] // self.block_diagonal]
        return (rows, *columns)

    def _plain_weights(self, weights: Sequence[Tensor]) -> list[Tensor]:
        """The weights of recurrences of the plain cell that compute what these do.

        Args:
            weights: in torch.nn's order, layer by layer, direction by direction.

        Returns:
            The same with the heads of a direction one after the other.
        """
        found: list[Tensor] = []
        per = 2 + 2 * self.bias + bool(self.proj_size)
        for at in range(0, len(weights), per):
            own = list(weights[at : at + per])
            if self.training and self.recurrent_dropout:
                own[1] = dropout(own[1], self.recurrent_dropout)
            if self.coupled:
                own[: 2 + 2 * self.bias] = [_with_forget_gate(w) for w in own[: 2 + 2 * self.bias]]
            found += own if self.block_diagonal == 1 else self._by_head(own)
        return found

    def _by_head(self, weights: Sequence[Tensor]) -> list[Tensor]:
        """The weights of one direction, those of each head one after the other."""
        shape = (GATES[self._cell()], self.block_diagonal, -1)
        parts = [w.unflatten(0, shape).transpose(0, 1).flatten(1, 2).unbind() for w in weights]
        return [w for own in zip(*parts, strict=True) for w in own]


def _with_forget_gate(weight: Tensor) -> Tensor:
    """The rows of gates i f g o of rows i g o."""
    i, g, o = weight.chunk(3)
    return torch.cat((i, -i, g, o))


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
