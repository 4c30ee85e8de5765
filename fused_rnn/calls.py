# SPDX-License-Identifier: MIT
"""One call of a layer, in the form that all of them take it in."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from torch import Tensor

from .ops import LayerOutput
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
        """The batch size B."""
        return self.x.size(1) if self.packing is None else self.packing.batch


def run_on_grid(
    run: Callable[[Tensor, Tensor | None, Tensor | None], LayerOutput],
    x: Tensor,
    resets: Tensor | None,
    packing: Packing,
    kept: list[Layer] | None = None,
) -> LayerOutput:
    """What `run(x, lengths, resets)` makes of packed input on its padded grid, packed again.

    Args:
        x, resets, packing: as in `Call`.
        kept: what `run` has filled on the grid; packed again, too.
    """
    lengths = None if packing.even else packing.lengths
    resets = None if resets is None else packing.pad(resets)
    y, hn, cn = run(packing.pad(x), lengths, resets)
    if kept is not None:
        kept[:] = [Layer(packing.pack(x), packing.pack(y)) for x, y in kept]
    return LayerOutput(packing.pack(y), hn, cn)
