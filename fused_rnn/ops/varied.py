# SPDX-License-Identifier: MIT
"""Cells with options: what their two ops take, and the shapes of what they return."""

from typing import Any, NamedTuple

from torch import Tensor

# G and S: lstm i f g o c; slstm i f z o c n and the forget gate's sigmoid; gru r z n q; plain RNN h
# before zoneout.
_GATES = {"rnn_tanh": 1, "rnn_relu": 1, "gru": 3, "lstm": 4, "slstm": 4}
_TAPE_SLOTS = {"rnn_tanh": 1, "rnn_relu": 1, "gru": 4, "lstm": 5, "slstm": 7}
# States of a unit besides h: c of the LSTM, c n m of the sLSTM, one behind another.
CELL_STATES = {"rnn_tanh": 0, "rnn_relu": 0, "gru": 0, "lstm": 1, "slstm": 3}


class CellOptions(NamedTuple):
    """The numbers and words that the ops take behind their tensors."""

    cell: str
    reverse: tuple[int, ...]
    activation: str = "tanh"
    gate_activation: str = "sigmoid"
    zoneout: float = 0.0  # probabilities
    zoneout_cell: float = 0.0
    dropout: float = 0.0
    drops_state: bool = False  # dropout is of h before the product, else of the candidate
    eps: float = 1e-5
    clip: float | None = None  # bounds what gates are activated at
    every_cell: bool = False  # whether the forward op returns CELL_STATES after every step


class CellInputs(NamedTuple):
    """The tensors that the ops take first, or one value for each of them."""

    x: Any  # the input's part of the gates, (T, B, N, G*H)
    h0: Any  # (N, B, H); None is zeros
    c0: Any  # (N, B, CELL_STATES * H)
    w_hh: Any  # (N, G*H, H)
    b_hh: Any  # (N, G*H), added to the recurrent part
    x_scale: Any  # (N, G*H): each gate's input part is normalised, times this,
    x_bias: Any  # (N, G*H) plus this
    h_scale: Any  # (N, G*H), the same of the recurrent part
    c_scale: Any  # (N, H), and of the cell that the output shows
    c_bias: Any  # (N, H)
    peephole: Any  # (N, 3*H), of i f o
    seeds: Any = None  # (B,) int64, of all masks; None draws none, as in evaluation
    lengths: Any = None  # (B,)
    resets: Any = None  # (T, B) bool

    @property
    def moving(self) -> tuple[Any, ...]:
        """Those that a derivative can be taken by."""
        return self[:11]

    def with_states(self, cell: str) -> "CellInputs":
        """The same with zeros in place of states that are absent."""
        leading, hidden = (self.w_hh.shape[0], self.x.shape[1]), self.w_hh.shape[2]
        cells = CELL_STATES[cell] * hidden
        h0 = self.x.new_zeros(*leading, hidden) if self.h0 is None else self.h0
        c0 = self.x.new_zeros(*leading, cells) if self.c0 is None and cells else self.c0
        return self._replace(h0=h0, c0=c0)

    @property
    def fixed(self) -> tuple[Any, ...]:
        """The others."""
        return self[11:]


class CellOutput(NamedTuple):
    """The results of one layer whose cells after every step may be asked for.

    Of compact rows y and cells have those in place of T and B.
    """

    y: Tensor  # (T, B, N, H)
    hn: Tensor  # (N, B, H)
    cn: Tensor | None  # (N, B, CELL_STATES * H)
    cells: Tensor | None  # (T, B, N, CELL_STATES * H), with `every_cell`


def forward_fake(*args: Any) -> tuple[Tensor, ...]:
    """The outputs of the forward op with a tape."""
    given, options = _split(args)
    cell, keep_tape = options.cell, args[-1]
    x, (count, _, hidden) = given.x, given.w_hh.shape
    steps, batch, cells = x.shape[0], x.shape[1], CELL_STATES[cell] * hidden
    # With normalised parts the tape has the recurrent one too, with `clip` what lay beyond it.
    slots = _TAPE_SLOTS[cell] + (_GATES[cell] if given.h_scale is not None else 0)
    slots += options.clip is not None
    rows = (steps, batch, count)
    return (
        x.new_empty((*rows, hidden)),
        x.new_empty((count, batch, hidden)),
        x.new_empty((count, batch, cells) if cells else (0,)),
        x.new_empty((*rows, cells) if cells and options.every_cell else (0,)),
        x.new_empty((*rows, slots, hidden) if keep_tape else (0,)),
        x.new_empty((*rows, hidden) if keep_tape else (0,)),
    )


def forward_fake_without_tape(*args: Any) -> tuple[Tensor, ...]:
    """The outputs of the forward op of a backend that keeps no tape."""
    return forward_fake(*args[:-1], False)


def backward_fake(*args: Any) -> tuple[Any, ...]:
    """The outputs of the backward op, without the gradient of w_hh but with its factors."""
    given, options = _split(args[4:], 2)
    x, hidden = given.x, given.w_hh.shape[2]
    parted = given.x_scale is not None or options.cell == "gru"
    return (
        x.new_empty(x.shape),
        x.new_empty(x.shape if parted else (0,)),
        x.new_empty((*x.shape[:3], hidden)),
        *_state_grads(given, options.cell),
        [_like(t, x) for t in given.moving[4:]],
    )


def backward_fake_without_tape(*args: Any) -> tuple[Any, ...]:
    """The outputs of the backward op of a backend that keeps no tape: all gradients."""
    given, options = _split(args[4:], 2)
    none = [given.x.new_empty(0) for _ in range(2)]
    weights = [_like(t, given.x) for t in given.moving[3:]]
    return given.x.new_empty(given.x.shape), *none, *_state_grads(given, options.cell), weights


def _split(args: tuple[Any, ...], between: int = 0) -> tuple[CellInputs, CellOptions]:
    """The tensors of an op, and its options, with so many arguments between."""
    count = len(CellInputs._fields)
    first = count + between
    return CellInputs(*args[:count]), CellOptions(*args[first : first + len(CellOptions._fields)])


def _state_grads(given: CellInputs, cell: str) -> tuple[Tensor, Tensor]:
    x, (count, _, hidden) = given.x, given.w_hh.shape
    cells = CELL_STATES[cell] * hidden
    dh0 = x.new_empty((count, x.shape[1], hidden))
    return dh0, x.new_empty((count, x.shape[1], cells) if cells else (0,))


def _like(tensor: Tensor | None, x: Tensor) -> Tensor:
    return x.new_empty((0,) if tensor is None else tensor.shape)
