# SPDX-License-Identifier: MIT
"""Layers over pieces of sequences: states given where one begins, and those of every step."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple, TypeVar, cast

import torch
from torch import Tensor, nn
from torch._compile import _disable_dynamo

from .._call import validation
from .._call.arguments import Arguments, States
from .._call.compact_rows import CompactRows
from .._call.pieces import Passed, Pieces, WholeRows, cell_states
from ..ops import LayerOutput

F = TypeVar("F", bound=Callable[..., Any])


def _outside_graphs(function: F) -> F:
    """The function, which torch.compile runs between two graphs, and refuses inside one."""
    # Not torch.compiler.disable itself, which imports the compiler for everybody.
    outside = _disable_dynamo(function)

    @functools.wraps(function)
    def called(*args: Any) -> Any:
        return (outside if torch.compiler.is_compiling() else function)(*args)

    return cast(F, called)


class Steps(NamedTuple):
    """The states that a call gives at marks, and whether it asks for those after every step."""

    at_marks: States  # of pieces that begin at a mark, (T, L*D, B, .) or (rows, L*D, .)
    wanted: bool  # whether those after every step are


class Piecewise(nn.Module):
    """A layer whose sequences are cut at marks, with states for the pieces.

    Which pieces there are depends on the marks, so no graph holds this: torch.compile runs it
    between two.
    """

    _kind: ClassVar[str]

    def _weights(self) -> list[Tensor]:
        """The weights to compute with, in torch.nn's order."""
        raise NotImplementedError

    def _run_layers(
        self, given: Arguments, weights: list[Tensor], kept: list[Passed] | None = None
    ) -> LayerOutput:
        """The outputs and final states of all layers."""
        raise NotImplementedError

    def _reverse(self) -> tuple[int, ...]:
        """Flags of a layer's recurrences, 1 where one walks backward in time."""
        raise NotImplementedError

    def _states(self, hx: Any) -> States:
        """The states that users pass as one or as a pair."""
        raise NotImplementedError

    def _state_shapes(self, batch: int) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
        """The shapes of h and c, (L*D, B, P) and (L*D, B, H)."""
        raise NotImplementedError

    def _steps(self, resets: Tensor | None, reset_states: Any, return_states: bool) -> Steps:
        if reset_states is None:
            return Steps((), return_states)
        if resets is None:
            raise ValueError("resets: expected marks beside reset_states, got None")
        return Steps(self._states(reset_states), return_states)

    @_outside_graphs
    def _run_pieces(
        self, given: Arguments, weights: list[Tensor], steps: Steps
    ) -> tuple[LayerOutput, States | None]:
        """The results of pieces with states of their own, and the states of every step."""
        x = given.x
        self._check_pieces(given, weights, steps)
        marked = given.resets is not None or given.lengths is not None
        if steps.wanted and not marked and min(x.shape[:2]) > 0:
            return self._run_whole_rows(given, weights)
        pieces, before = self._pieces(given)
        if len(pieces.rows) == 0:
            output = self._run_layers(given._replace(resets=None), weights)
            wanted = [s.new_zeros(x.size(0), *s.shape) for s in _parted(output)[1]]
            return output, wanted if steps.wanted else None
        first = pieces.first(before, steps.at_marks)
        kept: list[Passed] | None = [] if steps.wanted else None
        y, found = _parted(self._run_layers(_of_pieces(x, pieces, first), weights, kept))
        last = [
            pieces.last_states(own, state.to(own.dtype))
            for own, state in zip(found, before, strict=True)
        ]
        output = LayerOutput(pieces.grid(y), *(last if len(last) == 2 else (*last, None)))
        if kept is None:
            return output, None
        return output, self._every_state(kept, first, weights, pieces)

    def _run_whole_rows(
        self, given: Arguments, weights: list[Tensor]
    ) -> tuple[LayerOutput, States]:
        """The results of rows without marks, of all steps, and the states of every step."""
        steps, batch, _ = given.x.shape
        rows = WholeRows(steps, batch, given.x.device)
        first = given.states or self._zeros(given)
        kept: list[Passed] = []
        output = self._run_layers(_of_pieces(given.x, rows, first), weights, kept)
        output = output._replace(y=rows.grid(output.y))
        return output, self._every_state(kept, first, weights, rows)

    @_outside_graphs
    def _run_trajectories(
        self, x: Tensor, marks: Tensor, at_marks: States
    ) -> tuple[Tensor, list[Tensor]]:
        """The outputs, (T, B, D*P), and the states at each piece's last step, (T, L*D, B, .).

        Args:
            x: input sequence, (T, B, I).
            marks: where pieces begin, (T, B) bool; a row's first one begins anyway.
            at_marks: states of every step, (T, L*D, B, .), of which all recurrences, those in
                reverse too, take the one at their piece's first step; none are zeros.
        """
        first_step = [state[0] for state in at_marks]
        given, weights = Arguments.of(x, first_step, None, marks), self._weights()
        self._check_pieces(given, weights, Steps(at_marks, wanted=False))
        if marks[1:].any():
            pieces, _ = self._pieces(given)
            first = [state[pieces.starts, :, pieces.rows].transpose(0, 1) for state in at_marks]
            y, found = _parted(self._run_layers(_of_pieces(x, pieces, first), weights))
            return pieces.grid(y), [pieces.at_last_steps(state) for state in found]
        y, found = _parted(self._run_layers(given._replace(resets=None), weights))
        zeros = [state.new_zeros(len(x) - 1, *state.shape) for state in found]
        return y, [torch.cat([zero, s[None]]) for zero, s in zip(zeros, found, strict=True)]

    def _pieces(self, given: Arguments) -> tuple[Pieces, States]:
        """The pieces of a call, and the states before its first steps."""
        x, marks = given.x, given.resets
        marks = x.new_zeros(x.shape[:2], dtype=torch.bool) if marks is None else marks
        recurrences = self._shapes_of_states(x.size(1))[0][0]
        pieces = Pieces(marks, given.lengths, self._reverse(), recurrences)
        return pieces, given.states or self._zeros(given)

    def _zeros(self, given: Arguments) -> States:
        """States of zeros, one or two."""
        return [given.x.new_zeros(shape) for shape in self._shapes_of_states(given.x.size(1))]

    def _every_state(
        self, kept: list[Passed], first: States, weights: list[Tensor], pieces: Pieces | WholeRows
    ) -> States:
        """The states after every step of the pieces, (T, N, B, P) and of the LSTM (T, N, B, H)."""
        reverse = self._reverse()
        every = [_by_direction([passed.y for passed in kept], reverse)]
        cells = [passed.cells for passed in kept if passed.cells is not None]
        if cells:
            every.append(_by_direction(cells, reverse))
        elif len(first) == 2:
            hs, cs = (state.chunk(len(kept)) for state in first)
            per = len(weights) // len(kept)
            own = [weights[at : at + per] for at in range(0, len(weights), per)]
            every.append(
                torch.cat(
                    [
                        cell_states(*of_layer, reverse, pieces.compact_rows)
                        for of_layer in zip(kept, hs, cs, own, strict=True)
                    ],
                    1,
                )
            )
        return [pieces.grid(state).transpose(1, 2) for state in every]

    def _run_compact_pieces(
        self, given: Arguments, weights: list[Tensor], steps: Steps, rows: CompactRows
    ) -> tuple[LayerOutput, States | None]:
        """The results of `_run_pieces`, all steps in compact rows."""
        on_grid = [rows.pad(state).transpose(1, 2) for state in steps.at_marks]
        padded = given.on_grid()._replace(lengths=rows.lengths)
        (y, hn, cn), every = self._run_pieces(padded, weights, steps._replace(at_marks=on_grid))
        if every is not None:
            every = [rows.compact(state.transpose(1, 2)) for state in every]
        return LayerOutput(rows.compact(y), hn, cn), every

    def _shapes_of_states(self, batch: int) -> Sequence[tuple[int, int, int]]:
        return self._state_shapes(batch)[: 2 if self._kind == "LSTM" else 1]

    def _check_pieces(self, given: Arguments, weights: list[Tensor], steps: Steps) -> None:
        """Raises unless a call over pieces is served, and its states fit."""
        x, states = given.x, given.states
        shapes = self._shapes_of_states(x.size(1))
        validation.check_state_sizes(states, shapes)
        like = states or [x] * len(shapes)
        # strict=False: there may be none at all.
        for index, (state, shape) in enumerate(zip(steps.at_marks, shapes, strict=False)):
            name = "reset_states" if len(shapes) == 1 else f"reset_states[{index}]"
            validation.check_states_at_steps(name, state, (x.size(0), *shape), like[index])


def _by_direction(layers: Sequence[Tensor], reverse: Sequence[int]) -> Tensor:
    """What layers give after every step, (rows, D*H) each, as (rows, L*D, H)."""
    return torch.cat([layer.unflatten(-1, (len(reverse), -1)) for layer in layers], 1)


def _parted(output: LayerOutput) -> tuple[Tensor, list[Tensor]]:
    """The parts of a result: the outputs, and one or two states."""
    return output.y, [state for state in output[1:] if state is not None]


def _of_pieces(x: Tensor, pieces: Pieces | WholeRows, first: States) -> Arguments:
    return Arguments.of(pieces.compact(x), first, rows=pieces.compact_rows)
