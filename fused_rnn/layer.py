# SPDX-License-Identifier: MIT
"""What the three fused layers share: checks, the choice of kernels, packed weights."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.overrides import has_torch_function_variadic

from . import backends, overrides, per_sample, precision, validation
from .calls import Call, run_on_grid
from .conversion import Convertible
from .flat_weights import FlatWeights
from .forms import SequenceForms
from .ops import GATES, LayerOutput, prepack, prepacked_forward
from .per_sample import Watchable
from .piecewise import Steps
from .prepacking import Prepackable
from .stacks import inferred_stack, stack


class FusedLayer(Convertible, FlatWeights, Prepackable, Watchable, SequenceForms):
    """What the three layers share; parameters, their names and their start come from nn.RNNBase.

    It derives from that class and no deeper, as torch.compile refuses whatever is an nn.GRU.
    """

    _own_attributes: ClassVar[tuple[str, ...]] = ("backend", "direction")

    def __init__(self, mode: str, *options: Any, direction: str, backend: str) -> None:
        super().__init__(mode, *options)
        self.direction = self._check_direction(direction)
        self.backend = backends.check_name(backend)
        self.flatten_parameters()

    def _check_direction(self, direction: str) -> str:
        if direction not in ("forward", "reverse"):
            raise ValueError(f"direction: expected 'forward' or 'reverse', got {direction!r}")
        if direction == "reverse" and self.bidirectional:
            raise ValueError("direction: expected 'forward' beside bidirectional, got 'reverse'")
        return direction

    _reverse = SequenceForms._reverse

    def _cell(self) -> str:
        """The name of the equations, a key of `ops.GATES`."""
        return self._kind.lower()

    def _run(self, call: Call) -> LayerOutput:
        """The outputs and final states of all layers."""
        if self._watchers or has_torch_function_variadic(call.x, *call.states, *call.weights):
            found = self._run_asked(call)
            if found is not None:
                return found
        return self._run_batch(call)

    def _run_asked(self, call: Call) -> LayerOutput | None:
        """The results for what only acts as a tensor, or where each row's gradients are asked.

        None where neither is so.
        """
        x, states, weights, lengths, resets, packing, _ = call
        if not all(isinstance(t, Tensor) for t in (x, *states, *weights)):
            return self._run_foreign(call)
        batch, order = call.batch(), None if packing is None else packing.unsorted
        rows = per_sample.expanded(weights, batch, order, packed=packing is not None)
        rows = rows or self._watched(weights, batch, order, x)
        if rows is None:
            return None
        validation.check_state_sizes(states, self._state_shapes(batch))

        def run(*given: Any) -> LayerOutput:
            return self._run_batch(Call(*given))

        def run_rows(x: Tensor, lengths: Tensor | None, resets: Tensor | None) -> LayerOutput:
            y, hn, *cn = per_sample.by_row(run, 1, rows, x, states, lengths, resets)
            return LayerOutput(y, hn, cn[0] if cn else None)

        if packing is None:
            return run_rows(x, lengths, resets)
        return run_on_grid(run_rows, x, resets, packing)

    def _run_foreign(self, call: Call) -> LayerOutput:
        x, states, weights, lengths, resets, packing, _ = call
        cell = self._cell()
        extra: dict[str, object] = {"lengths": lengths, "resets": resets}
        if self.direction != "forward":
            extra["direction"] = self.direction
        overrides.check((x, *states, *weights), cell, **extra)
        validation.check_sequence(x, weights[0], self.input_size)
        shapes = self._state_shapes(call.batch())[: 2 if cell == "lstm" else 1]
        validation.check_state_sizes(states, shapes)
        options = (self.bias, self.num_layers, self.dropout, self.training, self.bidirectional)
        return overrides.layer(cell, x, states, shapes, weights, options, packing)

    def _run_batch(self, call: Call) -> LayerOutput:
        """The results for plain tensors, computed in the autocast dtype where there is one."""
        x, states, weights, lengths, resets, packing, kept = call
        lowered = precision.lowered(x, states, weights)
        if lowered is not None:
            validation.check_sequence(lowered.x, lowered.weights[0], self.input_size)
            with torch.autocast(x.device.type, enabled=False):
                return self._run_batch(call._replace(**lowered._asdict()))
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
            self._explain_packed()
            lengths = lengths if packing is None else packing.lengths
            runs = [_of_packed(pack) for pack in packs]
            return inferred_stack(runs, x, h0, c0, lengths, resets, kept)
        return stack(
            x,
            h0,
            c0,
            weights,
            lengths,
            resets,
            cell=cell,
            reverse=self._reverse(),
            dropout=self.dropout,
            training=self.training,
            backend=self.backend,
            packing=packing,
            kept=kept,
        )

    def _check_pieces(self, call: Call, steps: Steps) -> None:
        x, states, weights, *_ = call
        if not all(isinstance(t, Tensor) for t in (x, *states, *weights)):
            name = "reset_states" if steps.at_marks else "return_states"
            overrides.check((x, *states, *weights), self._cell(), **{name: steps})
        # Rows of the kernels are pieces, and gradients would be theirs.
        if per_sample.expanded(weights, x.size(1), None, packed=True) or self._watchers:
            raise RuntimeError(
                "reset_states and return_states: expected no gradients for each row of the batch"
            )
        super()._check_pieces(call, steps)

    def _prepack(self, weights: Sequence[Tensor]) -> list[Tensor]:
        per = len(weights) // self.num_layers
        layers = (weights[at : at + per] for at in range(0, len(weights), per))
        return [prepack(own, self._cell(), self._reverse()) for own in layers]


def _of_packed(pack: Tensor) -> Callable[..., Sequence[Any]]:
    """A function that runs the prepacked op of one layer on its packed weights."""
    return lambda x, h, c, lengths, resets: prepacked_forward(x, h, c, pack, lengths, resets)
