# SPDX-License-Identifier: MIT
"""One step of a beam search behind the model's: what lives on, what ends, and notes of both.

On the CPU a kernel of this package does it, elsewhere PyTorch. W rows of a sentence go in, one at
the first step and K behind it; K come out.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from .. import native, ops
from ..selection import Best
from .beams import Beams
from .stepping import broken


class Advanced(NamedTuple):
    """What a step leaves to the next one."""

    live: Tensor  # log-probabilities of what lives on, (B, K)
    rows: Tensor  # that it came from, (N,)
    tokens: Tensor  # its last ones, (N,)


class Tally(NamedTuple):
    """What is counted over all steps, in place."""

    ended: Tensor  # hypotheses of each sentence that have ended, (B,)
    broken: Tensor  # whether a row that matters has had logits that are no numbers, ()


def advance(
    found: Best,
    live: Tensor,
    tally: Tally,
    beams: Beams,
    step: int,
    *,
    eos: int | None,
    retire: bool,
) -> Advanced:
    """Returns what lives on of a step, and notes in `beams` how it came about.

    Args:
        found: the likeliest continuations of each row, (B * W, at most 2K): 2K but for lack of
            tokens.
        live: log-probabilities of the rows so far, (B, W).
        tally: brought up to date.
        beams: with room for the step.
        step: how many have been noted.
        eos: the token that ends a hypothesis; None: nothing does.
        retire: whether nothing of a sentence lives on once K of its hypotheses have ended.
    """
    if live.device.type == "cpu" and native.why_unavailable() is None:
        notes = beams[:-1]
        return Advanced(*ops.advance(*found, live, *tally, *notes, step, eos, retire))
    return _advance(found, live, tally, beams, step, eos, retire)


def _advance(
    found: Best,
    live: Tensor,
    tally: Tally,
    beams: Beams,
    step: int,
    eos: int | None,
    retire: bool,
) -> Advanced:
    """The same by PyTorch."""
    (B, W), K = live.shape, beams.tokens.size(2)
    missing = -(-2 * K // W) - found.values.size(1)
    if missing > 0:
        values = F.pad(found.values, (0, missing), value=-torch.inf)
        found = found._replace(values=values, indices=F.pad(found.indices, (0, missing)))
    alive = (live > -torch.inf).flatten()
    tally.broken.logical_or_(broken(found.peaks, alive))
    useless = ~found.peaks.isfinite().unsqueeze(1)
    totals = live.reshape(-1, 1).masked_fill(useless, -torch.inf)
    totals = (totals + found.values.masked_fill(useless, 0)).view(B, -1)  # (B, W * each)
    totals, order = totals.sort(dim=1, descending=True, stable=True)
    # All that can matter: k at most end, k live on.
    totals, order = totals[:, : 2 * K], order[:, : 2 * K]
    parents = order.div(found.values.size(1), rounding_mode="floor")
    tokens = found.indices.view(B, -1).gather(1, order)
    gains = found.values.view(B, -1).gather(1, order)
    if eos is not None:
        ends = tokens == eos
        beams.ended[step] = totals[:, :K].masked_fill(~ends[:, :K], -torch.inf)
        beams.end_parents[step] = parents[:, :K]
        beams.end_gains[step] = gains[:, :K]
        totals = totals.masked_fill(ends, -torch.inf)
        tally.ended.add_((beams.ended[step] > -torch.inf).sum(1))
    live, kept = totals.sort(dim=1, descending=True, stable=True)
    live, kept = live[:, :K], kept[:, :K]
    beams.tokens[step] = tokens.gather(1, kept)
    beams.parents[step] = parents.gather(1, kept)
    beams.gains[step] = gains.gather(1, kept)
    if retire and eos is not None:
        live = live.masked_fill((tally.ended >= K).unsqueeze(1), -torch.inf)
    base = torch.arange(0, B * W, W, device=live.device).unsqueeze(1)
    rows = (beams.parents[step] + base).flatten()
    return Advanced(live, rows, beams.tokens[step].flatten())
