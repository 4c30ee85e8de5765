# SPDX-License-Identifier: MIT
"""The interface of a backend, and the query it is asked before it is chosen."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ..ops import LayerOutput


class Query(NamedTuple):
    """The properties of a call that the choice of a backend may depend on, besides the build."""

    cell: str
    dtype: torch.dtype
    device: str
    reverse: tuple[int, ...] = (0,)
    resets: bool = False
    projection: bool = False
    device_index: int | None = None  # None is the current one
    hidden: int | None = None  # H, where it is known
    shape: tuple[int, int, int] | None = None  # T, B, H, for what `explain` tells of the kernels
    varied: bool = False  # whether its cells have options (ops.CellOptions)

    @property
    def cuda_index(self) -> int:
        """The number of the CUDA device that is meant."""
        if self.device_index is not None or not torch.cuda.is_available():
            return self.device_index or 0
        return torch.cuda.current_device()


def query_of(
    cell: str,
    like: Tensor,
    hidden: int,
    reverse: tuple[int, ...] = (0,),
    *,
    resets: bool = False,
    projection: bool = False,
) -> Query:
    """The query of a layer, or of a cell, which is one recurrence.

    Args:
        cell: a key of `ops.GATES`.
        like: has the dtype and device of the input.
        hidden: H.
        reverse: of each of a layer's recurrences, 1 where it walks backward in time.
        resets: whether sequences are cut at marks.
        projection: whether the LSTM projects its output.
    """
    device = like.device
    return Query(cell, like.dtype, device.type, reverse, resets, projection, device.index, hidden)


def _never(device: torch.device) -> bool:
    return False


class Backend(NamedTuple):
    """One way to run a layer."""

    name: str
    # The reason why it cannot run a query; None where it can.
    why_not: Callable[[Query], str | None]
    # The layer by PyTorch's own operations: as `reference_layer`. None is kernels behind an op.
    run: Callable[..., LayerOutput] | None = None
    # Several layers at once, as `aten_layers`; None is one after the other.
    run_stack: Callable[..., LayerOutput] | None = None
    # Whether its layers take the rows of a PackedSequence as they are, on a device.
    takes_compact_rows: Callable[[torch.device], bool] = _never
    # Whether its kernels on the CPU take weights packed beforehand.
    takes_prepacked: bool = False
    # The most units in float32 or float64 whose weights a CUDA device keeps between steps.
    most_units: Callable[[Query], int] | None = None
    # Whether kernels of this package run; falling past them is worth a warning.
    is_fused: bool = False
