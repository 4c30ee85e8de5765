# SPDX-License-Identifier: MIT
"""Every form of input to a layer, brought to (T, B, I) and back."""

from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from .._call import validation
from .._call.arguments import Arguments, Lengths, States, of_sequences, unbatched
from .._call.compact_rows import CompactRows
from .piecewise import Piecewise, Steps


class SequenceForms(Piecewise):
    """A layer that takes and gives sequences in all the forms that torch.nn's layers do."""

    _kind: ClassVar[str]
    # Of the one recurrence of a layer that is not bidirectional.
    direction = "forward"
    hidden_size: int
    num_layers: int
    batch_first: bool
    bidirectional: bool
    proj_size: int

    def forward(
        self,
        input: Tensor | PackedSequence,
        hx: Any = None,
        *,
        lengths: Lengths = None,
        resets: Tensor | None = None,
        reset_states: Any = None,
        return_states: bool = False,
    ) -> tuple[Any, ...]:
        """The outputs of all steps and the final states, in the form torch.nn returns them.

        Args:
            input: (T, B, I), or (B, T, I) with batch_first, or (T, I) unbatched, or packed.
            hx: initial states (L*D, B, P), for the LSTM a pair with (L*D, B, H); without the axis
                B for unbatched input. None is zeros.
            lengths: steps of each row, (B,) integers in 0..T in any order; past them the outputs
                are zero and the states stay. None is T for all, or what packed input says.
            resets: bool marks in the layout of the input's steps. Each row's sequence is cut
                before every marked step and the pieces run separately. None is no mark.
            reset_states: the states with which pieces begin at marks, (T, L*D, B, P), for the LSTM
                a pair with (T, L*D, B, H); unbatched without B, packed (rows, L*D, P). Read at
                marked steps only: there a forward direction begins, and one in reverse begins
                with it at the step before. None is zeros.
            return_states: whether the states after every step are a third result, laid out as
                `reset_states`; zeros past a row's length.

        Raises:
            ValueError: as torch.nn raises it, and for lengths or resets that do not fit.
            RuntimeError: as torch.nn raises it, or a backend asked for by name cannot run this.
        """
        steps = None
        if reset_states is not None or return_states:
            steps = self._steps(resets, reset_states, return_states)
        states = () if hx is None else self._states(hx)
        if isinstance(input, PackedSequence):
            return self._forward_packed(input, states, lengths, resets, steps)
        given = of_sequences(
            self._kind, input, states, lengths, resets, batch_first=self.batch_first
        )
        batched = input.dim() == 3
        if steps is not None:
            return self._forward_pieces(given, steps, batched)
        output = self._run_layers(given, self._weights())
        y, hn, cn = output if batched else unbatched(output)
        if batched and self.batch_first:
            y = y.transpose(0, 1)
        return y, (hn if cn is None else (hn, cn))

    def _forward_pieces(self, given: Arguments, steps: Steps, batched: bool) -> tuple[Any, ...]:
        if not batched:
            steps = steps._replace(at_marks=[state.unsqueeze(2) for state in steps.at_marks])
        output, every = self._run_pieces(given, self._weights(), steps)
        if not batched:
            every = None if every is None else [state.squeeze(2) for state in every]
            return self._results(*unbatched(output), every)
        y, hn, cn = output
        return self._results(y.transpose(0, 1) if self.batch_first else y, hn, cn, every)

    def _forward_packed(
        self,
        input: PackedSequence,
        states: States,
        lengths: Lengths,
        resets: Tensor | None,
        steps: Steps | None,
    ) -> tuple[Any, ...]:
        if lengths is not None:
            raise ValueError("lengths: expected None with a PackedSequence, got both")
        data, batch_sizes, sorted_indices, unsorted_indices = input
        validation.check_packed(input)
        batch = _batch_beside(sorted_indices, states)
        rows = CompactRows(batch_sizes, data.size(0), data.device, batch)
        rows.unsorted = unsorted_indices
        if resets is not None:
            validation.check_resets(resets, data.shape[:1], data)
        if states:
            # Before they are sorted: an index would fit a batch too large.
            validation.check_state_sizes(states, self._state_shapes(rows.batch))
            states = [_permuted(state, sorted_indices) for state in states]
        given, every = Arguments.of(data, states, None, resets, rows), None
        if steps is None:
            y, hn, cn = self._run_layers(given, self._weights())
        else:
            (y, hn, cn), every = self._run_compact_pieces(given, self._weights(), steps, rows)
        packed = PackedSequence(y, batch_sizes, sorted_indices, unsorted_indices)
        hn = _permuted(hn, unsorted_indices)
        return self._results(
            packed, hn, None if cn is None else _permuted(cn, unsorted_indices), every
        )

    def _results(
        self, y: Any, hn: Tensor, cn: Tensor | None, every: States | None
    ) -> tuple[Any, ...]:
        results = (y, hn if cn is None else (hn, cn))
        if every is None:
            return results
        return *results, every[0] if len(every) == 1 else tuple(every)

    def _check_direction(self, direction: str) -> str:
        """The direction of a layer whose `bidirectional` is set; raises ValueError for others."""
        if direction not in ("forward", "reverse"):
            raise ValueError(f"direction: expected 'forward' or 'reverse', got {direction!r}")
        if direction == "reverse" and self.bidirectional:
            raise ValueError("direction: expected 'forward' beside bidirectional, got 'reverse'")
        return direction

    def _reverse(self) -> tuple[int, ...]:
        """Flags of a layer's recurrences, 1 where one walks backward in time."""
        return (0, 1) if self.bidirectional else (int(self.direction == "reverse"),)

    def _states(self, hx: Any) -> States:
        return (hx,)

    def _state_shapes(self, batch: int) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
        rows = self.num_layers * len(self._reverse())
        return (
            (rows, batch, self.proj_size or self.hidden_size),
            (rows, batch, self.hidden_size),
        )


def _batch_beside(indices: Tensor | None, states: States) -> int | None:
    """The batch size by other tensors than batch_sizes, which a traced graph cannot read."""
    if not torch.compiler.is_compiling():
        return None
    if indices is not None:
        return indices.size(0)
    return states[0].size(1) if states else None


def _permuted(state: Tensor, indices: Tensor | None) -> Tensor:
    return state if indices is None else state.index_select(1, indices)
