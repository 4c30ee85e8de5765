# SPDX-License-Identifier: MIT
"""The compact rows of a PackedSequence: step after step, the rows that have not ended.

Below the modules nothing else is called packed but weights.
"""

from typing import Any

import torch
from torch import Tensor


class CompactRows:
    """The places of compact rows in a padded (T, B) grid.

    Args:
        batch_sizes: those of a PackedSequence, (T,), which never grow and lie on the CPU.
        rows: their sum.
        device: where the data is.
        batch: B, the first of them; None reads it.
    """

    # Where each row of the user's batch is among those sorted by length; None is the same place.
    unsorted: Tensor | None = None

    def __init__(
        self, batch_sizes: Tensor, rows: int, device: torch.device, batch: int | None = None
    ) -> None:
        self._rows, self._device = rows, device
        self.batch_sizes, self.steps = batch_sizes, batch_sizes.size(0)
        # Not int(...), which an export refuses.
        self.batch: Any = batch_sizes[0].item() if batch is None else batch
        # Every row has T steps. A graph serves all sizes, and asks nothing of them.
        self.even = not torch.compiler.is_compiling() and rows == self.steps * self.batch
        # Computed when asked for; torch.compile cannot enter the lock of a cached_property.
        self._lengths: Tensor | None = None
        self._places: Tensor | None = None

    @classmethod
    def of(cls, lengths: Tensor) -> "CompactRows":
        """The rows of sequences with `lengths`, (B,), which never grow and are at least 1."""
        steps = torch.arange(int(lengths[0]) if len(lengths) else 1, device="cpu")
        batch_sizes = (lengths.cpu() > steps.unsqueeze(1)).sum(1)
        return cls(batch_sizes, int(batch_sizes.sum()), lengths.device)

    @property
    def lengths(self) -> Tensor:
        """The steps of each row, (B,), falling."""
        if self._lengths is None:
            self._lengths = self._count_steps()
        return self._lengths

    def _count_steps(self) -> Tensor:
        # Row b has a step t wherever batch_sizes[t] > b.
        rows = torch.arange(self.batch, device="cpu")
        ended = torch.searchsorted(self.batch_sizes.flip(0), rows, right=True)
        return (self.steps - ended).to(self._device)

    @property
    def cells(self) -> Tensor:
        """The place of each row among the T*B cells of the grid."""
        if self._places is None:
            self._places = self._find_places()
        return self._places

    def _find_places(self) -> Tensor:
        sizes, rows = self.batch_sizes, torch.arange(self._rows, device="cpu")
        starts = sizes.cumsum(0) - sizes
        gaps = torch.arange(self.steps, device="cpu") * self.batch - starts
        return (rows + gaps.repeat_interleave(sizes, output_size=self._rows)).to(self._device)

    def pad(self, data: Tensor) -> Tensor:
        """Compact data, (rows, ...), on the grid, (T, B, ...); zeros where there is none."""
        if not self.even:
            grid = (self.steps * self.batch, *data.shape[1:])
            # Not index_copy: autocast takes it for arithmetic and casts, or refuses.
            data = data.new_zeros(grid).index_put((self.cells,), data)
        return data.view(self.steps, self.batch, *data.shape[1:])

    def compact(self, padded: Tensor) -> Tensor:
        """The rows, (rows, ...), of a grid, (T, B, ...), in their order."""
        rows = padded.flatten(0, 1)
        return rows if self.even else rows.index_select(0, self.cells)
