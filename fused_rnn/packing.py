# SPDX-License-Identifier: MIT
"""Packed sequences as padded ones with lengths, and back."""

from typing import NamedTuple

import torch
from torch import Tensor


class Packing(NamedTuple):
    """Where the rows of packed data lie in a padded (T, B) grid."""

    steps: int
    batch: int
    lengths: Tensor | None  # (B,), falling; None when every row has T steps
    cells: Tensor | None  # (rows,) into the T*B cells; None when that is 0, 1, 2, ...

    def pad(self, data: Tensor) -> Tensor:
        """Packed data, (rows, ...), on the grid, (T, B, ...); zeros where there is none."""
        grid = (self.steps * self.batch, *data.shape[1:])
        if self.cells is not None:
            # Not index_copy: autocast takes it for arithmetic and casts, or refuses.
            data = data.new_zeros(grid).index_put((self.cells,), data)
        return data.view(self.steps, self.batch, *data.shape[1:])

    def pack(self, padded: Tensor) -> Tensor:
        """The rows, (rows, ...), of a grid, (T, B, ...), in packed order."""
        rows = padded.flatten(0, 1)
        return rows if self.cells is None else rows.index_select(0, self.cells)


def packing(batch_sizes: Tensor, device: torch.device) -> Packing:
    """The grid of a PackedSequence's `batch_sizes`, (T,), which never grow and lie on the CPU."""
    steps, batch = batch_sizes.size(0), int(batch_sizes[0])
    if int(batch_sizes[-1]) == batch:
        return Packing(steps, batch, None, None)
    # Row b has a step t wherever batch_sizes[t] > b.
    ended = torch.searchsorted(batch_sizes.flip(0), torch.arange(batch), right=True)
    ends = batch_sizes.cumsum(0)
    gaps = torch.arange(0, steps * batch, batch) - (ends - batch_sizes)
    rows = int(ends[-1])
    cells = torch.arange(rows) + gaps.repeat_interleave(batch_sizes, output_size=rows)
    return Packing(steps, batch, (steps - ended).to(device), cells.to(device))
