# SPDX-License-Identifier: MIT
"""One call of a layer, in the form that all of them take it in."""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from .packing import Packing
from .pieces import Layer

States = Sequence[Tensor]


class Call(NamedTuple):
    """What all layers are given, checked but for sizes."""

    x: Tensor  # (T, B, I), or the rows of packed input, (rows, I)
    states: States
    weights: list[Tensor]
    lengths: Tensor | None
    resets: Tensor | None
    packing: Packing | None = None  # of packed input, which brings its own lengths
    kept: list[Layer] | None = None  # takes what goes in and out of every layer, of packed input

    def batch(self) -> int:
        """B."""
        return self.x.size(1) if self.packing is None else self.packing.batch
