# SPDX-License-Identifier: MIT
"""One step of each cell with options, and a layer of them, in plain PyTorch.

Throughout, xg is the input's part of the gates, (B, G*H), h and c are those of the step before,
act and gact the activations; parts of gates and the cell that the output shows may be normalised
(LN), each gate by itself, as Ba et al. 2016 do it for all gates together. d is what dropout keeps,
over 1 - p, and k what zoneout holds (Krueger et al. 2017): a mask, or without one the probability.
Dropout is of the state before the product (Gal and Ghahramani 2016) or of the candidate
(Semeniuta et al. 2016). p_i, p_f, p_o are peepholes (Gers et al. 2002). With a clip, gates and
candidates are activated at what is bounded to -clip..clip (ONNX); the LSTM's act(LN(c')) is not.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ...ops import CellInputs, CellOptions, CellOutput
from .cells import State
from .draws import Drawn, draw
from .layer import inside_of, masks_of, walk

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "relu": torch.relu,
    # As PyTorch and Keras 3 have it; the slope of PyTorch's own is a sixth in float32 (2.13).
    "hard_sigmoid": lambda x: (x + 3).clamp(0, 6) / 6,
}


class _Step(NamedTuple):
    """What one step of one recurrence takes besides its state."""

    xg: Tensor  # (B, G*H)
    given: CellInputs  # weights of the recurrence
    drawn: Drawn  # the masks of the step
    options: CellOptions

    def input_part(self) -> Tensor:
        return self.normal(self.xg, self.given.x_scale, self.given.x_bias)

    def recurrent_part(self, h: Tensor) -> Tensor:
        """LN((d * h) W_hh^T) + b_hh, with d where dropout is of the state."""
        if self.options.drops_state:
            h = h * self.kept()
        return self.normal(F.linear(h, self.given.w_hh), self.given.h_scale, self.given.b_hh)

    def kept(self) -> Any:
        """The factors of dropout, or 1."""
        p, keep = self.options.dropout, self.drawn.keep
        return 1 if keep is None else keep.to(self.xg.dtype) * (0.0 if p == 1 else 1 / (1 - p))

    def kept_candidate(self) -> Any:
        return 1 if self.options.drops_state else self.kept()

    def normal(self, row: Tensor, scale: Tensor | None, bias: Tensor | None) -> Tensor:
        """Each gate's values less their mean, over their deviation; times scale, plus bias."""
        if scale is not None:
            hidden = self.given.w_hh.shape[-1]
            gates = row.unflatten(-1, (-1, hidden))
            row = F.layer_norm(gates, (hidden,), eps=self.options.eps).flatten(-2) * scale
        return row if bias is None else row + bias

    def act(self, row: Tensor) -> Tensor:
        return _ACTIVATIONS[self.options.activation](row)

    def candidate(self, row: Tensor) -> Tensor:
        return self.act(self.bounded(row))

    def gate(self, row: Tensor) -> Tensor:
        return _ACTIVATIONS[self.options.gate_activation](self.bounded(row))

    def bounded(self, row: Tensor) -> Tensor:
        clip = self.options.clip
        return row if clip is None else row.clamp(-clip, clip)

    def held(self, new: Tensor, old: Tensor) -> Tensor:
        """h by zoneout."""
        return _held(new, old, self.drawn.hold, self.options.zoneout)

    def held_cell(self, new: Tensor, old: Tensor) -> Tensor:
        """c by zoneout."""
        return _held(new, old, self.drawn.hold_cell, self.options.zoneout_cell)


def _held(new: Tensor, old: Tensor, mask: Tensor | None, probability: float) -> Tensor:
    if mask is None:
        return probability * old + (1 - probability) * new if probability else new
    return torch.where(mask, old, new)


def lstm(step: _Step, state: State) -> State:
    """The state after one step of the LSTM.

    (1) a = LN(xg) + b_ih + LN((d * h) W_hh^T) + b_hh
    (2) i, f = gact(a_i + p_i * c), gact(a_f + p_f * c)
    (3) g = act(a_g) * d
    (4) c' = f * c + i * g
    (5) o = gact(a_o + p_o * c')
    (6) h_t = k * h + (1 - k) * o * act(LN(c')), c_t = k * c + (1 - k) * c'
    """
    h, c = state
    given = step.given
    i, f, g, o = (step.input_part() + step.recurrent_part(h)).chunk(4, -1)
    if given.peephole is not None:
        p_i, p_f, p_o = given.peephole.chunk(3, -1)
        i, f = i + p_i * c, f + p_f * c
    new = step.gate(f) * c + step.gate(i) * (step.candidate(g) * step.kept_candidate())
    if given.peephole is not None:
        o = o + p_o * new
    shown = step.normal(new, given.c_scale, given.c_bias)
    return step.held(step.gate(o) * step.act(shown), h), step.held_cell(new, c)


def gru(step: _Step, state: State) -> State:
    """The state after one step of the GRU, reset after the product.

    (1) u = LN((d * h) W_hh^T) + b_hh, v = LN(xg) + b_ih
    (2) r, z = gact(v_r + u_r), gact(v_z + u_z)
    (3) n = act(v_n + r * u_n) * d
    (4) h_t = k * h + (1 - k) * (n + z * (h - n))
    """
    (h,) = state
    x_r, x_z, x_n = step.input_part().chunk(3, -1)
    h_r, h_z, q = step.recurrent_part(h).chunk(3, -1)
    r, z = step.gate(x_r + h_r), step.gate(x_z + h_z)
    n = step.candidate(x_n + r * q) * step.kept_candidate()
    return (step.held(n + z * (h - n), h),)


def rnn(step: _Step, state: State) -> State:
    """The state after one step of the Elman network.

    (1) h_t = k * h + (1 - k) * act(LN(xg) + b_ih + LN((d * h) W_hh^T) + b_hh)
    """
    (h,) = state
    return (step.held(step.candidate(step.input_part() + step.recurrent_part(h)), h),)


def slstm(step: _Step, state: State) -> State:
    """The state (h, c n m) after one step of the sLSTM (Beck et al. 2024, equations 8 to 17).

    (1) i~, f~, z~, o~ = xg + h W_hh^T + b_hh
    (2) l = m + log sigma(f~), m_t = max(l, i~), or i~ where n is 0 and nothing has been stored
    (3) i, f = exp(i~ - m_t), exp(l - m_t), f = 0 where n is 0
    (4) c_t = f * c + i * tanh(z~), n_t = f * n + i
    (5) h_t = sigma(o~) * c_t / n_t
    """
    c, n, m = state[1].chunk(3, -1)
    pre = step.input_part() + step.recurrent_part(state[0])
    i_pre, f_pre, z_pre, o_pre = pre.chunk(4, -1)
    kept, empty = m + F.logsigmoid(f_pre), n == 0
    new_m = torch.where(empty, i_pre, torch.maximum(kept, i_pre))
    i = torch.exp(i_pre - new_m)
    # A number under both branches: the gradient of the other one is multiplied with zero.
    f = torch.where(empty, 0, torch.exp(torch.where(empty, 0, kept - new_m)))
    new_c, new_n = f * c + i * torch.tanh(z_pre), f * n + i
    h = torch.sigmoid(o_pre) * new_c / new_n
    return h, torch.cat((new_c, new_n, new_m), -1)


_STEPS = {"rnn_tanh": rnn, "rnn_relu": rnn, "gru": gru, "lstm": lstm, "slstm": slstm}


def varied_layer(options: CellOptions, given: CellInputs) -> CellOutput:
    """The outputs and final states of N recurrences over the input's part of their gates.

    Args:
        options: numbers and words.
        given: tensors; half types are the caller's to widen.

    Returns:
        y (T, B, N, H), hn (N, B, H), cn (N, B, CELL_STATES * H) or None; with `every_cell` the
        same after every step, (T, B, N, CELL_STATES * H).
    """
    x, cell = given.x, options.cell
    count = x.shape[2]
    inside, drawn = inside_of(x, given.lengths), draw(options, given)
    h0, c0 = given.with_states(cell)[1:3]
    shown, finals = [], []
    for n in range(count):
        # x has its axis of recurrences elsewhere, and states are handed on by themselves.
        weights = (None if t is None else t[n] for t in given[3:11])
        own = CellInputs(None, None, None, *weights)
        rows = x[:, :, n].unbind(0)

        def step(t: int, state: State, own: Any = own, rows: Any = rows, n: int = n) -> State:
            return _STEPS[cell](_Step(rows[t], own, drawn.at(t, n), options), state)

        state = (h0[n],) if c0 is None else (h0[n], c0[n])
        reverse = bool(options.reverse[n])
        masks = masks_of(inside, given.resets, reverse)
        every, final = walk(step, state, masks, x, reverse, 1 + options.every_cell)
        shown.append(every)
        finals.append(final)
    y, *shown_cells = (torch.stack(parts, 2) for parts in zip(*shown, strict=True))
    hn, *cn = (torch.stack(states) for states in zip(*finals, strict=True))
    return CellOutput(y, hn, cn[0] if cn else None, shown_cells[0] if shown_cells else None)
