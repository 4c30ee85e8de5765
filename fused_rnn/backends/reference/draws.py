# SPDX-License-Identifier: MIT
"""Masks of dropout and zoneout, from a seed for each row by a generator that counts.

The generator is Philox 4x32 of 7 rounds (Salmon et al. 2011, "Parallel random numbers: as easy as
1, 2, 3"). Its key is a row's seed, its counter (block of units, step, recurrence, use); a block is
8 units with 16 random bits each. So any place of a mask can be had by itself, and none is kept.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ...ops import CellInputs, CellOptions

_MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
_KEY_STEPS = 0x9E3779B9, 0xBB67AE85
_LOW = 0xFFFFFFFF
_ROUNDS = 7
_UNITS = 8


class Drawn(NamedTuple):
    """What is drawn for a layer, (T, B, N, H) bool each, or for one step of it; None is nothing."""

    hold: Tensor | None = None  # where the state before is held
    hold_cell: Tensor | None = None
    keep: Tensor | None = None  # what dropout keeps

    def at(self, step: int, recurrence: int) -> "Drawn":
        """The masks (B, H) of one step of a recurrence."""
        return Drawn(*(None if mask is None else mask[step, :, recurrence] for mask in self))


def draw(options: CellOptions, given: CellInputs) -> Drawn:
    """The masks of a call, none where it has no seeds."""
    if given.seeds is None:
        return Drawn()
    steps = torch.arange(given.x.shape[0], device=given.x.device)[:, None]
    # Dropout of the state is the same at all steps between two marks.
    segments = steps[:1] if given.resets is None else given.resets.cumsum(0)
    of_keep = segments if options.drops_state else steps
    return Drawn(
        _marks(given, 0, options.zoneout, steps) if options.zoneout else None,
        _marks(given, 1, options.zoneout_cell, steps) if options.zoneout_cell else None,
        _marks(given, 2, 1 - options.dropout, of_keep) if options.dropout else None,
    )


def _marks(given: CellInputs, use: int, probability: float, steps: Tensor) -> Tensor:
    """Marks (T, B, N, H) that are set with a probability, rounded to a multiple of 2^-16."""
    count, _, hidden = given.w_hh.shape
    blocks = torch.arange(-(-hidden // _UNITS), device=given.x.device)
    recurrences = torch.arange(count, device=given.x.device)[:, None]
    counter = (blocks, steps[..., None, None], recurrences, torch.full_like(blocks, use))
    words = torch.stack(torch.broadcast_tensors(*philox(counter, given.seeds[:, None, None])), -1)
    # 16 bits as a number with a sign, of which none is as large as the last limit.
    bits = words.to(torch.int32).view(torch.int16).flatten(-2)[..., :hidden]
    limit = int(probability * (1 << 16) + 0.5) - (1 << 15)
    marks = bits < limit if limit < 1 << 15 else torch.ones_like(bits, dtype=torch.bool)
    return marks.expand(given.x.shape[0], given.x.shape[1], count, hidden)


def philox(counter: tuple[Tensor, ...], key: Tensor) -> tuple[Tensor, ...]:
    """Four words of 32 random bits, for four words of a counter and a key of 64 bits."""
    a, b, c, d = counter
    low, high = key & _LOW, (key >> 32) & _LOW
    for _ in range(_ROUNDS):
        # Of 64 bits the upper half is wanted too: that it may be a sign is masked away.
        p, q = a * _MULTIPLIERS[0], c * _MULTIPLIERS[1]
        a, b = ((q >> 32) & _LOW) ^ b ^ low, q & _LOW
        c, d = ((p >> 32) & _LOW) ^ d ^ high, p & _LOW
        low, high = (low + _KEY_STEPS[0]) & _LOW, (high + _KEY_STEPS[1]) & _LOW
    return a, b, c, d
