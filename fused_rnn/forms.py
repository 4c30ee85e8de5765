# SPDX-License-Identifier: MIT
"""Every form of input to a layer, brought to (T, B, I) and back."""

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from . import validation
from .ops import LayerOutput
from .packing import Packing

States = Sequence[Tensor]
Lengths = Tensor | Sequence[int] | None


class Call(NamedTuple):
    """What all layers are given, checked but for sizes."""

    x: Tensor  # (T, B, I), or the rows of packed input, (rows, I)
    states: States
    weights: list[Tensor]
    lengths: Tensor | None
    resets: Tensor | None
    packing: Packing | None = None  # of packed input, which brings its own lengths

    def batch(self) -> int:
        """B."""
        return self.x.size(1) if self.packing is None else self.packing.batch


class SequenceForms(nn.Module):
    """A layer that takes and gives sequences in all the forms that torch.nn's layers do."""

    _kind: ClassVar[str]
    # Of the one recurrence of a layer that is not bidirectional.
    direction = "forward"
    hidden_size: int
    num_layers: int
    batch_first: bool
    bidirectional: bool
    proj_size: int

    def _weights(self) -> list[Tensor]:
        """The weights to compute with, in torch.nn's order."""
        raise NotImplementedError

    def _run(self, call: Call) -> LayerOutput:
        """The outputs and final states of all layers."""
        raise NotImplementedError

    def forward(
        self,
        input: Tensor | PackedSequence,
        hx: Any = None,
        *,
        lengths: Lengths = None,
        resets: Tensor | None = None,
    ) -> tuple[Any, Any]:
        """The outputs of all steps and the final states, in the form torch.nn returns them.

        Args:
            input: (T, B, I), or (B, T, I) with batch_first, or (T, I) unbatched, or packed.
            hx: initial states (L*D, B, P), for the LSTM a pair with (L*D, B, H); without the axis
                B for unbatched input. None is zeros.
            lengths: steps of each row, (B,) integers in 0..T in any order; past them the outputs
                are zero and the states stay. None is T for all, or what packed input says.
            resets: bool marks in the layout of the input's steps. Each row's sequence is cut
                before every marked step and the pieces run separately. None is no mark.

        Raises:
            ValueError: as torch.nn raises it, and for lengths or resets that do not fit.
            RuntimeError: as torch.nn raises it, or a backend asked for by name cannot run this.
        """
        if isinstance(input, PackedSequence):
            return self._forward_packed(input, hx, lengths, resets)
        if input.dim() != 3:
            return self._forward_unbatched(input, hx, lengths, resets)
        states = () if hx is None else self._states(hx)
        if states:
            validation.check_state_dims(states, batched=True)
        x = input.transpose(0, 1) if self.batch_first else input
        if lengths is not None:
            lengths = validation.check_lengths(lengths, steps=x.size(0), batch=x.size(1), x=x)
        if resets is not None:
            validation.check_resets(resets, input.shape[:2], x)
            resets = resets.transpose(0, 1) if self.batch_first else resets
        y, hn, cn = self._run(Call(x, states, self._weights(), lengths, resets))
        if self.batch_first:
            y = y.transpose(0, 1)
        return y, (hn if cn is None else (hn, cn))

    def _forward_unbatched(
        self, input: Tensor, hx: Any, lengths: Lengths, resets: Tensor | None
    ) -> tuple[Tensor, Any]:
        validation.check_input_dim(self._kind, input)
        states = () if hx is None else self._states(hx)
        validation.check_state_dims(states, batched=False)
        x = input.unsqueeze(1)
        if lengths is not None:
            lengths = validation.as_lengths(lengths).reshape(-1)
            lengths = validation.check_lengths(lengths, steps=x.size(0), batch=1, x=x)
        if resets is not None:
            validation.check_resets(resets, input.shape[:1], x)
            resets = resets.unsqueeze(1)
        states = [state.unsqueeze(1) for state in states]
        y, hn, cn = self._run(Call(x, states, self._weights(), lengths, resets))
        y, hn = y.squeeze(1), hn.squeeze(1)
        return y, (hn if cn is None else (hn, cn.squeeze(1)))

    def _forward_packed(
        self, input: PackedSequence, hx: Any, lengths: Lengths, resets: Tensor | None
    ) -> tuple[PackedSequence, Any]:
        if lengths is not None:
            raise ValueError("lengths: expected None with a PackedSequence, got both")
        data, batch_sizes, sorted_indices, unsorted_indices = input
        validation.check_packed(input)
        states = () if hx is None else self._states(hx)
        batch = _batch_beside(sorted_indices, states)
        packing = Packing(batch_sizes, data.size(0), data.device, batch)
        packing.unsorted = unsorted_indices
        if resets is not None:
            validation.check_resets(resets, data.shape[:1], data)
        if states:
            # Before they are sorted: an index would fit a batch too large.
            validation.check_state_sizes(states, self._state_shapes(packing.batch))
            states = [_permuted(state, sorted_indices) for state in states]
        y, hn, cn = self._run(Call(data, states, self._weights(), None, resets, packing))
        packed = PackedSequence(y, batch_sizes, sorted_indices, unsorted_indices)
        hn = _permuted(hn, unsorted_indices)
        return packed, (hn if cn is None else (hn, _permuted(cn, unsorted_indices)))

    def _reverse(self) -> tuple[int, ...]:
        """Of each recurrence of a layer, 1 where it walks backward in time."""
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
    """B as other tensors than the batch sizes have it, for a graph, which cannot read those."""
    if not torch.compiler.is_compiling():
        return None
    if indices is not None:
        return indices.size(0)
    return states[0].size(1) if states else None


def _permuted(state: Tensor, indices: Tensor | None) -> Tensor:
    return state if indices is None else state.index_select(1, indices)
