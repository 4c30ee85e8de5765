# SPDX-License-Identifier: MIT
"""The fixed table of launch configurations: by bits of the type and hidden size, never T or B."""

from typing import NamedTuple

import torch


class Block(NamedTuple):
    """A whole recurrence in one program, for a block of rows."""

    block_h: int
    block_b: int
    warps: int


# By bits of the type, the largest H first served.
BLOCKS = {
    16: {16: Block(16, 16, 4), 32: Block(32, 16, 4), 64: Block(64, 16, 4), 128: Block(128, 16, 8)},
    32: {16: Block(16, 16, 4), 32: Block(32, 16, 4)},
}


def choose(hidden: int, dtype: torch.dtype) -> Block:
    """The configuration of a layer."""
    for most, form in BLOCKS[dtype.itemsize * 8].items():
        if hidden <= most:
            return form
    raise ValueError(hidden)
