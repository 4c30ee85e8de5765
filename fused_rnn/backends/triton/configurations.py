# SPDX-License-Identifier: MIT
"""The fixed table of launch configurations: by bits of the type and hidden size, never T or B."""

from functools import cache
from typing import NamedTuple

import torch

from ...ops import GATES


class Device(NamedTuple):
    """The sizes of a device that a launch depends on, besides the layer."""

    processors: int  # programs that run at the same time, one for each multiprocessor
    shared: int  # bytes of shared memory that a program may have


class Block(NamedTuple):
    """A whole recurrence in one program, for a block of rows."""

    block_h: int
    block_b: int
    warps: int
    multiple: int = 1  # what H is one of: addresses of odd sizes take registers that weights need

    @property
    def options(self) -> dict[str, int]:
        """The options with which a kernel of this form is launched."""
        blocks = {"BLOCK_H": self.block_h, "BLOCK_B": self.block_b}
        return blocks | {"num_warps": self.warps}


class Grid(NamedTuple):
    """A slice of a recurrence's units in each program, for some blocks of rows."""

    block_k: int  # columns of a part
    split: int  # parts that K is cut into, for the warps
    block_u: int
    block_b: int
    resident: bool  # weights stay in the program: block_k * split is H at least
    warps: int

    @property
    def options(self) -> dict[str, int]:
        """The options with which a kernel of this form is launched."""
        blocks = {"BLOCK_K": self.block_k, "BLOCK_U": self.block_u, "BLOCK_B": self.block_b}
        return blocks | {"SPLIT": self.split, "num_warps": self.warps}


# By bits of the type, each with the largest H it serves.
TABLE: dict[int, dict[int, Block | Grid]] = {
    16: {
        32: Block(32, 16, 4),
        64: Block(64, 16, 4),
        128: Block(128, 16, 8, multiple=16),
        256: Grid(32, 8, 16, 16, True, 8),
        512: Grid(64, 8, 16, 16, True, 8),
        1024: Grid(128, 8, 16, 16, True, 8),
    },
    32: {32: Block(32, 16, 4)},
}
# For any H, and for a single step: weights come from the second-level cache, or memory, each time.
STREAMED = {16: Grid(32, 4, 16, 16, False, 8), 32: Grid(16, 4, 16, 16, False, 8)}


@cache
def device_of(device: torch.device) -> Device:
    """The sizes of a CUDA device."""
    found = torch.cuda.get_device_properties(device)
    return Device(found.multi_processor_count, found.shared_memory_per_block_optin)


def padded(count: int) -> int:
    """Returns how many gates a unit has in a product: sizes are powers of two."""
    return 4 if count == 3 else count


def shared_bytes(form: Block | Grid, cell: str, dtype: torch.dtype) -> int:
    """The most bytes of shared memory that a program needs: its weights, and operands or sums."""
    rows, size = padded(GATES[cell]), dtype.itemsize
    if isinstance(form, Block):
        units, columns = form.block_h, form.block_h
        operand, sums = size * GATES[cell] * form.block_h, 4 * rows * units
    else:
        units, columns = form.block_u, form.split * form.block_k
        operand, sums = size * columns, 4 * form.split * rows * units
    return size * columns * rows * units + form.block_b * max(operand, sums)


def operands_at_once(form: Grid, cell: str, dtype: torch.dtype, device: Device) -> int:
    """The number of gates whose operands fit beside the weights of all, backward; one at least."""
    bytes_of_column = dtype.itemsize * form.split * form.block_k
    left = device.shared - bytes_of_column * GATES[cell] * form.block_u
    return max(1, min(GATES[cell], left // (bytes_of_column * form.block_b)))


def choose(cell: str, hidden: int, dtype: torch.dtype, device: Device) -> Block | Grid:
    """The configuration of all steps of a layer: the first of the table that fits."""
    for most, form in TABLE[dtype.itemsize * 8].items():
        if hidden > most or (isinstance(form, Block) and hidden % form.multiple):
            continue
        if shared_bytes(form, cell, dtype) <= device.shared:
            return form
    return streamed(dtype)


def streamed(dtype: torch.dtype) -> Grid:
    """The configuration without resident weights."""
    return STREAMED[dtype.itemsize * 8]
