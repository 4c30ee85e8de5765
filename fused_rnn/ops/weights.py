# SPDX-License-Identifier: MIT
"""The flat list of weights that a layer has: its order, and the sizes that it tells."""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

# G, in torch.nn's order: gru r z n, lstm i f g o.
GATES = {"rnn_tanh": 1, "rnn_relu": 1, "gru": 3, "gru_reset_before": 3, "lstm": 4}


class Weights(NamedTuple):
    """The weights of one recurrence, absent ones None."""

    w_ih: Tensor  # (G*H, I)
    w_hh: Tensor  # (G*H, P)
    b_ih: Tensor | None  # (G*H,)
    b_hh: Tensor | None  # (G*H,)
    w_hr: Tensor | None  # (P, H)


class Layout(NamedTuple):
    """The sizes and options that a flat list of weights tells of its recurrences."""

    hidden: int
    output: int
    bias: bool
    projection: bool

    @property
    def per_recurrence(self) -> int:
        """The number of tensors in the list that one recurrence owns."""
        return 2 + 2 * self.bias + self.projection


def layout(weights: Sequence[Tensor], cell: str) -> Layout:
    """Sizes and options of the recurrences whose weights begin the flat list `weights`."""
    w_hh = weights[1]
    hidden, output = w_hh.shape[0] // GATES[cell], w_hh.shape[1]
    bias = len(weights) > 2 and weights[2].dim() == 1
    # A projection is smaller than the hidden size it projects, in torch.nn as here.
    return Layout(hidden, output, bias, cell == "lstm" and output != hidden)


def split(weights: Sequence[Tensor], recurrences: int) -> list[Weights]:
    """The flat list of one layer's weights, parted by recurrence."""
    per = len(weights) // recurrences
    return [_named(weights[n * per : (n + 1) * per]) for n in range(recurrences)]


def _named(weights: Sequence[Tensor]) -> Weights:
    w_ih, w_hh, *rest = weights
    b_ih, b_hh = rest[:2] if len(rest) >= 2 else (None, None)
    return Weights(w_ih, w_hh, b_ih, b_hh, rest[-1] if len(rest) % 2 else None)
