# SPDX-License-Identifier: MIT
"""The arguments of one call of a layer, made from every form of padded input."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from torch import Tensor

from ..ops import LayerOutput
from . import validation
from .compact_rows import CompactRows
from .pieces import Passed

Lengths = Tensor | Sequence[int] | None
States = Sequence[Tensor]


class Arguments(NamedTuple):
    """The input, states, lengths and marks of one call of a layer; checked but for sizes."""

    x: Tensor  # (T, B, I), or compact rows, (rows, I)
    h0: Tensor | None  # (L*D, B, P); None is zeros
    c0: Tensor | None  # of the LSTM, (L*D, B, H); None is zeros
    lengths: Tensor | None  # (B,) int64; None is T for all
    resets: Tensor | None  # marks before which a row is cut, (T, B) bool or (rows,)
    rows: CompactRows | None = None  # where compact rows are; they bring their own lengths

    @classmethod
    def of(
        cls,
        x: Tensor,
        states: States,
        lengths: Tensor | None = None,
        resets: Tensor | None = None,
        rows: CompactRows | None = None,
    ) -> Arguments:
        """The arguments with the states (), (h0,) or (h0, c0)."""
        h0, c0 = (*states, None, None)[:2]
        return cls(x, h0, c0, lengths, resets, rows)

    @property
    def states(self) -> tuple[Tensor, ...]:
        """The states that there are: (), (h0,) or (h0, c0)."""
        if self.h0 is None:
            return ()
        return (self.h0,) if self.c0 is None else (self.h0, self.c0)

    @property
    def batch(self) -> int:
        """The batch size B."""
        return self.x.size(1) if self.rows is None else self.rows.batch

    def with_tensors(self, x: Tensor, states: States) -> Arguments:
        """A copy of the arguments with another input and other states."""
        return Arguments.of(x, states, *self[3:])

    def on_grid(self) -> Arguments:
        """The arguments with padded input, (T, B, I), in place of compact rows."""
        rows = self.rows
        if rows is None:
            return self
        lengths = None if rows.even else rows.lengths
        resets = None if self.resets is None else rows.pad(self.resets)
        return Arguments(rows.pad(self.x), self.h0, self.c0, lengths, resets)


def of_sequences(
    kind: str,
    input: Tensor,
    states: States,
    lengths: Lengths,
    resets: Tensor | None,
    *,
    batch_first: bool = False,
) -> Arguments:
    """The arguments of a call on padded input, or on one sequence, which becomes a batch of one.

    Args:
        kind: the layer's name in torch.nn, for messages.
        input: (T, B, I), with `batch_first` (B, T, I), or (T, I).
        states: (), (h0,) or (h0, c0), each (L*D, B, .), or (L*D, .) for one sequence.
        lengths: steps of each row, (B,) integers; None is T for all.
        resets: bool marks, laid out as the input's steps; None is no mark.

    Raises:
        ValueError, RuntimeError, TypeError: as torch.nn raises it, and for lengths or resets that
            do not fit.
    """
    if input.dim() != 3:
        return _of_one_sequence(kind, input, states, lengths, resets)
    h0 = c0 = None
    if states:
        validation.check_state_dims(states, batched=True)
        h0, c0 = states[0], (states[1] if len(states) == 2 else None)
    x = input.transpose(0, 1) if batch_first else input
    if lengths is not None:
        lengths = validation.check_lengths(lengths, steps=x.size(0), batch=x.size(1), x=x)
    if resets is not None:
        validation.check_resets(resets, input.shape[:2], x)
        resets = resets.transpose(0, 1) if batch_first else resets
    return Arguments(x, h0, c0, lengths, resets)


def _of_one_sequence(
    kind: str, input: Tensor, states: States, lengths: Lengths, resets: Tensor | None
) -> Arguments:
    validation.check_input_dim(kind, input)
    validation.check_state_dims(states, batched=False)
    x = input.unsqueeze(1)
    if lengths is not None:
        lengths = validation.as_lengths(lengths).reshape(-1)
        lengths = validation.check_lengths(lengths, steps=x.size(0), batch=1, x=x)
    if resets is not None:
        validation.check_resets(resets, input.shape[:1], x)
        resets = resets.unsqueeze(1)
    return Arguments.of(x, [state.unsqueeze(1) for state in states], lengths, resets)


def unbatched(output: LayerOutput) -> LayerOutput:
    """The results of one sequence, without the batch axis."""
    y, hn, cn = output
    return LayerOutput(y.squeeze(1), hn.squeeze(1), None if cn is None else cn.squeeze(1))


def run_on_grid(
    function: Callable[[Arguments], LayerOutput],
    given: Arguments,
    kept: list[Passed] | None = None,
) -> LayerOutput:
    """The results of a function on the padded grid of compact rows, in compact rows again.

    Args:
        function: takes arguments without compact rows.
        given: the call; padded input is handed on as it is.
        kept: what `function` has filled on the grid; made compact, too.
    """
    rows = given.rows
    if rows is None:
        return function(given)
    y, hn, cn = function(given.on_grid())
    if kept is not None:
        kept[:] = [
            Passed(rows.compact(x), rows.compact(y), None if c is None else rows.compact(c))
            for x, y, c in kept
        ]
    return LayerOutput(rows.compact(y), hn, cn)
