# SPDX-License-Identifier: MIT
"""Packed sequences as padded ones with lengths, and back."""

from functools import cached_property

import torch
from torch import Tensor


class Packing:
    """Where the rows of packed data lie in a padded (T, B) grid.

    Args:
        batch_sizes: those of a PackedSequence, (T,), which never grow and lie on the CPU.
        device: where the data is.
    """

    # Where each row of the user's batch is among those sorted by length; None is the same place.
    unsorted: Tensor | None = None

    def __init__(self, batch_sizes: Tensor, device: torch.device) -> None:
        self._batch_sizes, self._device = batch_sizes, device
        self.steps, self.batch = batch_sizes.size(0), int(batch_sizes[0])
        self.even = int(batch_sizes[-1]) == self.batch  # every row has T steps

    @classmethod
    def of(cls, lengths: Tensor) -> "Packing":
        """That of rows with `lengths`, (B,), which never grow and are at least 1."""
        steps = torch.arange(int(lengths[0]) if len(lengths) else 1)
        return cls((lengths.cpu() > steps.unsqueeze(1)).sum(1), lengths.device)

    @property
    def batch_sizes(self) -> Tensor:
        """Those of the PackedSequence, (T,)."""
        return self._batch_sizes

    @cached_property
    def lengths(self) -> Tensor:
        """The steps of each row, (B,), falling."""
        # Row b has a step t wherever batch_sizes[t] > b.
        rows = torch.arange(self.batch)
        ended = torch.searchsorted(self._batch_sizes.flip(0), rows, right=True)
        return (self.steps - ended).to(self._device)

    @cached_property
    def _cells(self) -> Tensor:
        """The place of each packed row among the T*B cells of the grid."""
        sizes, ends = self._batch_sizes, self._batch_sizes.cumsum(0)
        gaps = torch.arange(0, self.steps * self.batch, self.batch) - (ends - sizes)
        rows = int(ends[-1])
        cells = torch.arange(rows) + gaps.repeat_interleave(sizes, output_size=rows)
        return cells.to(self._device)

    def pad(self, data: Tensor) -> Tensor:
        """Packed data, (rows, ...), on the grid, (T, B, ...); zeros where there is none."""
        if not self.even:
            grid = (self.steps * self.batch, *data.shape[1:])
            # Not index_copy: autocast takes it for arithmetic and casts, or refuses.
            data = data.new_zeros(grid).index_put((self._cells,), data)
        return data.view(self.steps, self.batch, *data.shape[1:])

    def pack(self, padded: Tensor) -> Tensor:
        """The rows, (rows, ...), of a grid, (T, B, ...), in packed order."""
        rows = padded.flatten(0, 1)
        return rows if self.even else rows.index_select(0, self._cells)
