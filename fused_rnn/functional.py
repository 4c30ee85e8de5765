# SPDX-License-Identifier: MIT
"""Stateless recurrent layers: `rnn`, `gru` and `lstm` over weights in torch.nn's flat order.

Under autocast they compute and return the autocast dtype, as the modules do. float32 on the CPU
follows torch.set_float32_matmul_precision (`products`).
"""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import NamedTuple, cast

import torch
from torch import Tensor

from . import precision, validation
from .ops import GATES, LayerOutput, layout
from .stacks import stack

Lengths = Tensor | Sequence[int] | None


def rnn(
    input: Tensor,
    hx: Tensor | None,
    weights: Sequence[Tensor],
    *,
    num_layers: int = 1,
    bias: bool = True,
    dropout: float = 0.0,
    training: bool = False,
    bidirectional: bool = False,
    nonlinearity: str = "tanh",
    lengths: Lengths = None,
    resets: Tensor | None = None,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """The outputs of all steps and the final states of an Elman network (`reference.cells`).

    Args:
        input: sequences, (T, B, I), or one, (T, I).
        hx: initial states, (L*D, B, H), without B for one sequence; None is zeros.
        weights: torch.nn's order, layer by layer, direction by direction: w_ih, w_hh, and with
            `bias` b_ih, b_hh.
        dropout: probability between layers, in training.
        nonlinearity: "tanh" or "relu".
        lengths: steps of each row, (B,) integers in 0..T; None is T for all.
        resets: bool marks, (T, B) or (T,), before which a sequence is cut; None is no mark.
        backend: a backend's name, which runs or raises, or "auto".

    Returns:
        (T, B, D*H) and (L*D, B, H), without B for one sequence.

    Raises:
        ValueError, RuntimeError: an argument does not fit, or the backend cannot run this.
    """
    if nonlinearity not in ("tanh", "relu"):
        raise ValueError(f"Unknown nonlinearity '{nonlinearity}'. Select from 'tanh' or 'relu'.")
    options = _Options(
        f"rnn_{nonlinearity}", num_layers, bias, dropout, training, bidirectional, lengths, resets
    )
    y, hn, _ = _run(input, () if hx is None else (hx,), weights, options, backend)
    return y, hn


def gru(
    input: Tensor,
    hx: Tensor | None,
    weights: Sequence[Tensor],
    *,
    num_layers: int = 1,
    bias: bool = True,
    dropout: float = 0.0,
    training: bool = False,
    bidirectional: bool = False,
    reset_after: bool = True,
    lengths: Lengths = None,
    resets: Tensor | None = None,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """The outputs of all steps and the final states of a GRU (`reference.cells`).

    Args and returns as in `rnn`; `reset_after` False is the textbook form, another model.
    """
    cell = "gru" if reset_after else "gru_reset_before"
    options = _Options(cell, num_layers, bias, dropout, training, bidirectional, lengths, resets)
    y, hn, _ = _run(input, () if hx is None else (hx,), weights, options, backend)
    return y, hn


def lstm(
    input: Tensor,
    hx: tuple[Tensor, Tensor] | None,
    weights: Sequence[Tensor],
    *,
    num_layers: int = 1,
    bias: bool = True,
    dropout: float = 0.0,
    training: bool = False,
    bidirectional: bool = False,
    lengths: Lengths = None,
    resets: Tensor | None = None,
    backend: str = "auto",
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """The outputs of all steps and the final states of an LSTM (`reference.cells`).

    Args and returns as in `rnn`, with these differences. `hx` and the final states are pairs,
    h (L*D, B, P) and c (L*D, B, H). Weights whose w_hh has P < H columns end, for each layer and
    direction, in the projection w_hr (P, H).
    """
    if hx is not None and len(hx) != 2:
        raise RuntimeError(f"lstm expects two hidden states, got {len(hx)}")
    options = _Options("lstm", num_layers, bias, dropout, training, bidirectional, lengths, resets)
    y, hn, cn = _run(input, () if hx is None else hx, weights, options, backend)
    return y, (hn, cast(Tensor, cn))


class _Options(NamedTuple):
    """What the three functions take besides tensors and a backend."""

    cell: str
    num_layers: int
    bias: bool
    dropout: float
    training: bool
    bidirectional: bool
    lengths: Lengths
    resets: Tensor | None

    def shapes(self, w_ih: Tensor, w_hh: Tensor) -> list[tuple[int, ...]]:
        """The shapes that all weights must have by those of the first two."""
        gates, directions = GATES[self.cell], 2 if self.bidirectional else 1
        hidden = w_ih.shape[0] // gates
        output = min(w_hh.shape[1], hidden) if self.cell == "lstm" else hidden
        rows = gates * hidden
        shapes: list[tuple[int, ...]] = []
        for index in range(self.num_layers):
            inputs = output * directions if index else w_ih.shape[1]
            one = [(rows, inputs), (rows, output), *([(rows,)] * 2 if self.bias else [])]
            shapes += (one + ([(output, hidden)] if output != hidden else [])) * directions
        return shapes


def _run(
    input: Tensor,
    states: Sequence[Tensor],
    weights: Sequence[Tensor],
    options: _Options,
    backend: str,
) -> LayerOutput:
    """Results of `stack` after all checks; a single sequence becomes a batch of one."""
    cell, directions = options.cell, 2 if options.bidirectional else 1
    validation.check_input_dim(cell.partition("_")[0].upper(), input)
    batched = input.dim() == 3
    validation.check_state_dims(states, batched=batched)
    lengths, resets = options.lengths, options.resets
    if resets is not None:
        validation.check_resets(resets, input.shape[:-1], input)
    if not batched:
        input, states = input.unsqueeze(1), [state.unsqueeze(1) for state in states]
        resets = None if resets is None else resets.unsqueeze(1)
        lengths = None if lengths is None else validation.as_lengths(lengths).reshape(-1)
    validation.check_present(weights)
    lowered = precision.lowered(input, states, weights)
    if lowered is not None:
        input, states, weights = lowered
    validation.check_weights(weights, options.shapes, input)
    validation.check_sequence(input, weights[0], weights[0].shape[1])
    steps, batch, _ = input.shape
    sizes, count = layout(weights, cell), options.num_layers * directions
    shapes = ((count, batch, sizes.output), (count, batch, sizes.hidden))
    validation.check_state_sizes(states, shapes[: 2 if cell == "lstm" else 1])
    for state in states:
        validation.check_state_like(state, input)
    if lengths is not None:
        lengths = validation.check_lengths(lengths, steps=steps, batch=batch, x=input)
    with nullcontext() if lowered is None else torch.autocast(input.device.type, enabled=False):
        y, hn, cn = stack(
            input,
            states[0] if states else None,
            states[1] if len(states) == 2 else None,
            weights,
            lengths,
            resets,
            cell=cell,
            reverse=(0, 1) if options.bidirectional else (0,),
            dropout=options.dropout,
            training=options.training,
            backend=backend,
        )
    if batched:
        return LayerOutput(y, hn, cn)
    return LayerOutput(y.squeeze(1), hn.squeeze(1), None if cn is None else cn.squeeze(1))
