# SPDX-License-Identifier: MIT
"""Sequences cut at marks, every piece with a state of its own to begin with, in one call.

The pieces become sequences of their own, in compact rows.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ..ops import split, sum_dtype
from .compact_rows import CompactRows


class Passed(NamedTuple):
    """The input and the output of one layer of a stack, in compact rows, and the cells if known."""

    x: Tensor  # (rows, I)
    y: Tensor  # (rows, D*P)
    cells: Tensor | None = None  # c after every step, (rows, D*H)


class WholeRows:
    """The rows of a batch without marks, of all steps: each is the one piece that it has."""

    def __init__(self, steps: int, batch: int, device: torch.device) -> None:
        self._sizes = (steps, batch)
        batch_sizes = torch.full((steps,), batch, device="cpu")
        self.compact_rows = CompactRows(batch_sizes, steps * batch, device, batch)

    def compact(self, grid: Tensor) -> Tensor:
        """The steps of all rows, (rows, ...), of a grid (T, B, ...)."""
        return grid.flatten(0, 1)

    def grid(self, data: Tensor) -> Tensor:
        """Compact data, (rows, ...), at its steps, (T, B, ...)."""
        return data.unflatten(0, self._sizes)


class Pieces:
    """The places of the pieces of a batch's rows, in the grid of their steps and in compact rows.

    A row without steps has no piece.

    Args:
        marks: where a piece begins, (T, B) bool; each row's first one begins anyway.
        lengths: steps of each row, (B,); None is T for all.
        reverse: of each of a layer's D recurrences, 1 where it walks backward in time.
        recurrences: L*D.
    """

    def __init__(
        self, marks: Tensor, lengths: Tensor | None, reverse: Sequence[int], recurrences: int
    ) -> None:
        self.steps, self.batch = marks.shape
        device = marks.device
        if lengths is None:
            lengths = torch.full((self.batch,), self.steps, device=device)
        begins = marks.clone()
        begins[:1] = True
        begins &= torch.arange(self.steps, device=device).unsqueeze(1) < lengths
        rows, starts = begins.T.nonzero(as_tuple=True)
        next_rows, next_starts = rows.roll(-1), starts.roll(-1)
        last = rows != next_rows
        last[-1:] = True
        stops = torch.where(last, lengths[rows], next_starts)
        order = (stops - starts).argsort(descending=True, stable=True)
        self.rows, self.starts, self.stops = rows[order], starts[order], stops[order]
        self.compact_rows = CompactRows.of(self.stops - self.starts)
        self._lengths, self._cut = lengths, ~last[order]
        self._marked = marks[self.starts, self.rows]
        flags = torch.tensor(reverse, dtype=torch.bool, device=device)
        self._reverse = flags.repeat(recurrences // len(reverse)).unsqueeze(1)  # (N, 1)
        # Of each compact row, the place of its step among the T*B of the grid.
        cells = self.compact_rows.cells
        step, piece = cells // len(order), cells % len(order)
        self._places = (self.starts[piece] + step) * self.batch + self.rows[piece]

    def compact(self, grid: Tensor) -> Tensor:
        """The steps of all pieces, (rows, ...), of a grid (T, B, ...)."""
        return grid.flatten(0, 1).index_select(0, self._places)

    def grid(self, data: Tensor) -> Tensor:
        """Compact data, (rows, ...), at its steps, (T, B, ...); zeros where there is none."""
        # Not index_copy: autocast takes it for arithmetic and casts, or refuses.
        grid = data.new_zeros(self.steps * self.batch, *data.shape[1:])
        return grid.index_put((self._places,), data).view(self.steps, self.batch, *data.shape[1:])

    def first(self, given: Sequence[Tensor], at_marks: Sequence[Tensor]) -> list[Tensor]:
        """The first states of all pieces, of h and for the LSTM c; without `at_marks` zeros."""
        own: Sequence[Tensor | None] = at_marks or [None] * len(given)
        return [self.first_states(*both) for both in zip(given, own, strict=True)]

    def first_states(self, given: Tensor, at_marks: Tensor | None) -> Tensor:
        """The state that each piece begins with, (N, pieces, H).

        Args:
            given: those of whole rows, (N, B, H).
            at_marks: those of pieces that begin at a mark, or in reverse end before one,
                (T, N, B, H); None is zeros.
        """
        marked = torch.where(self._reverse, self._cut, self._marked).unsqueeze(-1)
        own = given[:, self.rows]
        if at_marks is None:
            return torch.where(marked, 0, own)
        ends = self.stops.clamp(max=self.steps - 1)
        steps = torch.where(self._reverse, ends, self.starts)
        return torch.where(marked, at_marks[steps, self._recurrences, self.rows], own)

    def last_states(self, found: Tensor, given: Tensor) -> Tensor:
        """The state in which each row ends, (N, B, H), out of those of pieces, (N, pieces, H)."""
        pieces = torch.arange(len(self.rows), device=found.device)
        ends = pieces.new_zeros(2, self.batch)
        ends[0, self.rows[~self._cut]] = pieces[~self._cut]
        first = self.starts == 0
        ends[1, self.rows[first]] = pieces[first]
        which = torch.where(self._reverse, ends[1], ends[0])
        some = (self._lengths > 0).unsqueeze(-1)
        return torch.where(some, found[self._recurrences, which], given)

    def at_last_steps(self, found: Tensor) -> Tensor:
        """Final states of the pieces, (N, pieces, H), at their last steps, (T, N, B, H)."""
        grid = found.new_zeros(self.steps, self.batch, len(found), found.shape[2])
        at = (self.stops - 1, self.rows)
        return grid.index_put(at, found.transpose(0, 1)).transpose(1, 2)

    @property
    def _recurrences(self) -> Tensor:
        return torch.arange(len(self._reverse), device=self._reverse.device).unsqueeze(1)


def cell_states(
    passed: Passed,
    h0: Tensor,
    c0: Tensor,
    weights: Sequence[Tensor],
    reverse: Sequence[int],
    rows: CompactRows,
) -> Tensor:
    """The LSTM's cell states after every step of one layer, (rows, D, H).

    They follow from its outputs: all products at once, then a walk through time without any
    (Hochreiter and Schmidhuber 1997, with the forget gate of Gers et al. 2000).

    Args:
        h0: states that rows begin with, (D, B, P).
        c0: their cell states, (D, B, H).
        weights: torch.nn's order, direction by direction.
    """
    given, dtype = passed.x.dtype, sum_dtype(passed.x.dtype)
    # Under autocast the layer has computed with what these are in its own type.
    x, y, h0, c0, *own_weights = (
        t.to(given).to(dtype) for t in (passed.x, passed.y, h0, c0, *weights)
    )
    outputs = y.chunk(len(reverse), -1)
    sizes: list[int] = rows.batch_sizes.tolist()
    found = []
    with torch.autocast(x.device.type, enabled=False):
        for n, own in enumerate(split(own_weights, len(reverse))):
            backward = bool(reverse[n])
            before = torch.cat([h0[n], outputs[n]])
            before = before.index_select(0, _rows_before(sizes, backward).to(x.device))
            gates = F.linear(x, own.w_ih, own.b_ih) + F.linear(before, own.w_hh, own.b_hh)
            i, f, g, _ = gates.chunk(4, -1)
            new, kept = i.sigmoid() * g.tanh(), f.sigmoid()
            found.append(_walk(new, kept, c0[n], sizes, backward))
    return torch.stack(found, 1).to(given)


def _rows_before(sizes: Sequence[int], backward: bool) -> Tensor:
    """The place of each compact row's state before the step among the states of h0 and y."""
    counts = torch.tensor(sizes, device="cpu")
    offsets = counts.cumsum(0) - counts
    batch, rows = sizes[0], sum(sizes)
    step = torch.arange(len(sizes), device="cpu").repeat_interleave(counts, output_size=rows)
    row = torch.arange(rows, device="cpu") - offsets[step]
    other = (step + 1 if backward else step - 1).clamp(0, len(sizes) - 1)
    begins = (step == len(sizes) - 1) | (row >= counts[other]) if backward else step == 0
    return torch.where(begins, row, batch + offsets[other] + row)


def _walk(new: Tensor, kept: Tensor, c: Tensor, sizes: Sequence[int], backward: bool) -> Tensor:
    """The states c_t = kept_t * c_{t-1} + new_t of compact rows, (rows, H)."""
    steps = list(zip(kept.split(list(sizes)), new.split(list(sizes)), strict=True))
    found, state = [], c[:0] if backward else c
    for factor, term in reversed(steps) if backward else steps:
        count = len(factor)
        state = torch.cat([state, c[len(state) : count]]) if backward else state[:count]
        state = factor * state + term
        found.append(state)
    return torch.cat(found[::-1] if backward else found)
