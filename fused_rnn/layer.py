# SPDX-License-Identifier: MIT
"""What the three fused layers share: every form of input, brought to (T, B, I) and back."""

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence
from torch.overrides import has_torch_function_variadic

from . import backends, functional, overrides, per_sample, precision, validation
from .conversion import Convertible
from .flat_weights import FlatWeights
from .ops import GATES, LayerOutput, prepack
from .packing import Packing
from .per_sample import Watchable
from .prepacking import Prepackable

States = Sequence[Tensor]
Lengths = Tensor | Sequence[int] | None


class _Call(NamedTuple):
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


class FusedLayer(Convertible, FlatWeights, Prepackable, Watchable):
    """What the three layers share; parameters, their names and their start come from nn.RNNBase.

    It derives from that class and no deeper, as torch.compile refuses whatever is an nn.GRU.
    """

    _kind: ClassVar[str]

    def __init__(self, mode: str, *options: Any, backend: str) -> None:
        super().__init__(mode, *options)
        self.backend = backends.check_name(backend)
        self.flatten_parameters()

    def _cell(self) -> str:
        """The name of the equations, a key of `ops.GATES`."""
        return self._kind.lower()

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
        y, hn, cn = self._run(_Call(x, states, self._weights(), lengths, resets))
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
        y, hn, cn = self._run(_Call(x, states, self._weights(), lengths, resets))
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
        y, hn, cn = self._run(_Call(data, states, self._weights(), None, resets, packing))
        packed = PackedSequence(y, batch_sizes, sorted_indices, unsorted_indices)
        hn = _permuted(hn, unsorted_indices)
        return packed, (hn if cn is None else (hn, _permuted(cn, unsorted_indices)))

    def _run(self, call: _Call) -> LayerOutput:
        """The outputs and final states of all layers."""
        if self._watchers or has_torch_function_variadic(call.x, *call.states, *call.weights):
            found = self._run_asked(call)
            if found is not None:
                return found
        return self._run_batch(call)

    def _run_asked(self, call: _Call) -> LayerOutput | None:
        """The same of objects that only act as tensors, or where each row's gradients are asked.

        None where neither is so.
        """
        x, states, weights, lengths, resets, packing = call
        if not all(isinstance(t, Tensor) for t in (x, *states, *weights)):
            return self._run_foreign(call)
        batch, order = call.batch(), None if packing is None else packing.unsorted
        rows = per_sample.expanded(weights, batch, order, packed=packing is not None)
        rows = rows or self._watched(weights, batch, order, x)
        if rows is None:
            return None
        validation.check_state_sizes(states, self._state_shapes(batch))
        if packing is not None:
            x, resets = packing.pad(x), None if resets is None else packing.pad(resets)
            lengths = None if packing.even else packing.lengths

        def run(*given: Any) -> LayerOutput:
            return self._run_batch(_Call(*given))

        y, hn, *cn = per_sample.by_row(run, 1, rows, x, states, lengths, resets)
        y = y if packing is None else packing.pack(y)
        return LayerOutput(y, hn, cn[0] if cn else None)

    def _run_foreign(self, call: _Call) -> LayerOutput:
        x, states, weights, lengths, resets, packing = call
        cell = self._cell()
        overrides.check((x, *states, *weights), cell, lengths=lengths, resets=resets)
        validation.check_sequence(x, weights[0], self.input_size)
        shapes = self._state_shapes(call.batch())[: 2 if cell == "lstm" else 1]
        validation.check_state_sizes(states, shapes)
        options = (self.bias, self.num_layers, self.dropout, self.training, self.bidirectional)
        return overrides.layer(cell, x, states, shapes, weights, options, packing)

    def _run_batch(self, call: _Call) -> LayerOutput:
        """The same of tensors, in the autocast dtype where there is one."""
        x, states, weights, lengths, resets, packing = call
        lowered = precision.lowered(x, states, weights)
        if lowered is not None:
            validation.check_sequence(lowered.x, lowered.weights[0], self.input_size)
            with torch.autocast(x.device.type, enabled=False):
                return self._run_batch(_Call(*lowered, lengths, resets, packing))
        validation.check_sequence(x, weights[0], self.input_size)
        validation.check_devices(weights, x)
        h0 = c0 = None
        if states:
            validation.check_state_sizes(states, self._state_shapes(call.batch()))
            for state in states:
                validation.check_state_like(state, x)
            h0, c0 = states[0], (states[1] if len(states) == 2 else None)
        cell = self._cell()
        rows, output = GATES[cell] * self.hidden_size, self.proj_size or self.hidden_size
        validation.check_first_weights(weights, (rows, self.input_size), (rows, output))
        packs = self._packs(weights, x, *states)
        if packs is not None and not (self.training and self.dropout):
            lengths = lengths if packing is None else packing.lengths
            return functional.prepacked_stack(x, h0, c0, packs, lengths, resets)
        return functional.stack(
            x,
            h0,
            c0,
            weights,
            lengths,
            resets,
            cell=cell,
            directions=2 if self.bidirectional else 1,
            dropout=self.dropout,
            training=self.training,
            backend=self.backend,
            packing=packing,
        )

    def _prepack(self, weights: Sequence[Tensor]) -> list[Tensor]:
        reverse = (0, 1) if self.bidirectional else (0,)
        per = len(weights) // self.num_layers
        layers = (weights[at : at + per] for at in range(0, len(weights), per))
        return [prepack(own, self._cell(), reverse) for own in layers]

    def _states(self, hx: Any) -> States:
        return (hx,)

    def _state_shapes(self, batch: int) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
        rows = self.num_layers * (2 if self.bidirectional else 1)
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
