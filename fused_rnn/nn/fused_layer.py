# SPDX-License-Identifier: MIT
"""The base of the three fused layers: checks, the choice of kernels, packed weights."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, TypeGuard

import torch
from torch import Tensor
from torch.overrides import has_torch_function_variadic

from .._call import autocast, per_sample, torch_function, validation
from .._call.arguments import Arguments, States, run_on_grid
from .._call.per_sample import Watchable
from .._call.pieces import Passed
from .._call.stack import inferred_stack, stack
from .._call.varied import varied_stack
from .._call.variety import PLAIN
from ..backends import choice
from ..ops import GATES, LayerOutput, prepack, prepacked_forward
from .flat_weights import FlatWeights
from .piecewise import Steps
from .prepacking import Prepackable
from .sequence_forms import SequenceForms
from .variants import VariedWeights, joined, parted


class FusedLayer(VariedWeights, FlatWeights, Prepackable, Watchable, SequenceForms):
    """The base of the three layers; parameters, names and first values come from nn.RNNBase.

    It derives from that class and no deeper, as torch.compile refuses whatever is an nn.GRU.
    """

    _own_attributes: ClassVar[tuple[str, ...]] = ("backend", "direction")

    def __init__(
        self, mode: str, *options: Any, direction: str, backend: str, **varied: Any
    ) -> None:
        super().__init__(mode, *options)
        self._vary(**varied)
        self.direction = self._check_direction(direction)
        self.backend = choice.check_name(backend)
        self.flatten_parameters()

    _reverse = SequenceForms._reverse

    def _cell(self) -> str:
        """The name of the equations, a key of `ops.GATES`."""
        return self._kind.lower()

    def _run_layers(
        self, given: Arguments, weights: list[Tensor], kept: list[Passed] | None = None
    ) -> LayerOutput:
        """The outputs and final states of all layers."""
        if self._watchers or has_torch_function_variadic(*given[:3], *weights):
            found = self._run_asked(given, weights)
            if found is not None:
                return found
        return self._run_plain(given, weights, kept)

    def _run_asked(self, given: Arguments, weights: list[Tensor]) -> LayerOutput | None:
        """The results for what only acts as a tensor, or where each row's gradients are asked.

        None where neither is so.
        """
        x, rows, states = given.x, given.rows, given.states
        if not all(isinstance(t, Tensor) for t in (x, *states, *weights)):
            return self._run_foreign(given, weights)
        order = None if rows is None else rows.unsorted
        own = per_sample.expanded(weights, given.batch, order, packed=rows is not None)
        own = own or self._watched(weights, given.batch, order, x)
        if own is None:
            return None
        validation.check_state_sizes(states, self._state_shapes(given.batch))

        def one_row(x: Tensor, states: States, weights: list[Tensor], *others: Any) -> LayerOutput:
            return self._run_plain(Arguments.of(x, states, *others), weights)

        def every_row(given: Arguments) -> LayerOutput:
            x, *_, lengths, resets, _ = given
            y, hn, *cn = per_sample.by_row(one_row, 1, own, x, given.states, lengths, resets)
            return LayerOutput(y, hn, cn[0] if cn else None)

        return run_on_grid(every_row, given)

    def _run_foreign(self, given: Arguments, weights: list[Tensor]) -> LayerOutput:
        x, *_, lengths, resets, rows = given
        cell, states = self._cell(), given.states
        extra: dict[str, object] = {"lengths": lengths, "resets": resets}
        extra |= {name: value for name, value, _ in self._not_of_torch()}
        torch_function.check((x, *states, *weights), cell, **extra)
        validation.check_sequence(x, weights[0], self.input_size)
        shapes = self._state_shapes(given.batch)[: 2 if cell == "lstm" else 1]
        validation.check_state_sizes(states, shapes)
        options = (self.bias, self.num_layers, self.dropout, self.training, self.bidirectional)
        return torch_function.foreign_layers(cell, x, states, shapes, weights, options, rows)

    def _run_plain(
        self, given: Arguments, weights: list[Tensor], kept: list[Passed] | None = None
    ) -> LayerOutput:
        """The results for plain tensors, computed in the autocast dtype where there is one."""
        x, states = given.x, () if given.h0 is None else given.states
        lowered = autocast.lowered(x, states, weights)
        if lowered is not None:
            validation.check_sequence(lowered.x, lowered.weights[0], self.input_size)
            given = given.with_tensors(lowered.x, lowered.states)
            with torch.autocast(x.device.type, enabled=False):
                return self._run_plain(given, lowered.weights, kept)
        validation.check_sequence(x, weights[0], self.input_size)
        validation.check_devices(weights, x)
        if states:
            validation.check_state_sizes(states, self._state_shapes(given.batch))
            for state in states:
                validation.check_state_like(state, x)
        if self._variety is not PLAIN:
            return self._run_varied(given, weights, kept)
        columns = self.proj_size or self.hidden_size
        self._check_first_weights(weights, GATES[self._cell()], columns)
        # Packed weights have no kernel that tells c of every step.
        untold = kept is not None and self._kind == "LSTM"
        packs = None if untold else self._packs(weights, x, *states)
        if packs is not None and not (self.training and self.dropout):
            self._explain_packed()
            return inferred_stack([_of_packed(pack) for pack in packs], given, kept)
        return self._run_stack(given, weights, self._reverse(), kept)

    def _run_varied(
        self, given: Arguments, weights: list[Tensor], kept: list[Passed] | None
    ) -> LayerOutput:
        """The results of a layer with options, by the weights that it makes of its parameters."""
        own, reverse = self._variety, self._reverse()
        heads = own.block_diagonal
        columns = self.proj_size or self.hidden_size // heads
        self._check_first_weights(weights, GATES[self._cell()] - own.coupled, columns)
        own_cells = own.has_own_cells(self.training)
        packs = self._packs(weights, given.x, *given.states)
        random = self.training and (self.dropout or own.recurrent_dropout)
        if packs is not None and not (own_cells or random):
            self._explain_packed()
            return inferred_stack([_of_packed(pack) for pack in packs], given, kept)
        weights = self._plain_weights(weights)
        given = given.with_tensors(given.x, [parted(state, heads) for state in given.states])
        reverse = tuple(backward for backward in reverse for _ in range(heads))
        if own_cells or (kept is not None and self._tells_cells()):
            output = varied_stack(
                given,
                weights,
                own,
                cell=self._cell(),
                reverse=reverse,
                bias=bool(self.bias),
                dropout=self.dropout,
                training=self.training,
                backend=self.backend,
                kept=kept,
            )
        else:
            output = self._run_stack(given, weights, reverse, kept)
        return output if heads == 1 else joined(output, heads)

    def _tells_cells(self) -> bool:
        """Whether c after every step comes from kernels for cells with options.

        It follows from the outputs of plain ones only where these have the parameters as weights.
        """
        own = self._variety
        drops = self.training and own.drops_weights
        return self._kind == "LSTM" and bool(drops or not own.has_torchs_weights())

    def _check_first_weights(self, weights: list[Tensor], gates: int, columns: int) -> None:
        rows = gates * self.hidden_size
        validation.check_first_weights(weights, (rows, self.input_size), (rows, columns))

    def _run_stack(
        self,
        given: Arguments,
        weights: list[Tensor],
        reverse: tuple[int, ...],
        kept: list[Passed] | None,
    ) -> LayerOutput:
        return stack(
            given,
            weights,
            cell=self._cell(),
            reverse=reverse,
            dropout=self.dropout,
            training=self.training,
            backend=self.backend,
            kept=kept,
        )

    def _check_pieces(self, given: Arguments, weights: list[Tensor], steps: Steps) -> None:
        x, states = given.x, given.states
        if not all(isinstance(t, Tensor) for t in (x, *states, *weights)):
            name = "reset_states" if steps.at_marks else "return_states"
            torch_function.check((x, *states, *weights), self._cell(), **{name: steps})
        # Rows of the kernels are pieces, and gradients would be theirs.
        if per_sample.expanded(weights, x.size(1), None, packed=True) or self._watchers:
            raise RuntimeError(
                "reset_states and return_states: expected no gradients for each row of the batch"
            )
        if steps.wanted and self.proj_size and self._tells_cells():
            got = self.own_text(self, without=("backend", "direction")).removeprefix(", ")
            raise RuntimeError(f"return_states: expected no options beside proj_size, got {got}")
        super()._check_pieces(given, weights, steps)

    def _can_prepack(self) -> bool:
        return self._infers_as_torch()

    def _are_for_cudnn(self, weights: list[Any]) -> TypeGuard[list[Tensor]]:
        return self._infers_as_torch() and super()._are_for_cudnn(weights)

    def _prepack(self, weights: Sequence[Tensor]) -> list[Tensor]:
        per = len(weights) // self.num_layers
        layers = (weights[at : at + per] for at in range(0, len(weights), per))
        return [prepack(own, self._cell(), self._reverse()) for own in layers]


def _of_packed(pack: Tensor) -> Callable[..., Sequence[Any]]:
    """A function that runs the prepacked op of one layer on its packed weights."""
    return lambda x, h, c, lengths, resets: prepacked_forward(x, h, c, pack, lengths, resets)
