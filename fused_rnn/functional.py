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

from ._call import autocast, validation
from ._call.arguments import Lengths, of_sequences, unbatched
from ._call.stack import stack
from .ops import GATES, LayerOutput, layout


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
    y, hn, _ = _call(input, () if hx is None else (hx,), weights, options, backend)
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
    y, hn, _ = _call(input, () if hx is None else (hx,), weights, options, backend)
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
    y, hn, cn = _call(input, () if hx is None else hx, weights, options, backend)
    return y, (hn, cast(Tensor, cn))


class _Options(NamedTuple):
    """The arguments of the three functions besides input, states, weights and backend."""

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


def _call(
    input: Tensor,
    states: Sequence[Tensor],
    weights: Sequence[Tensor],
    options: _Options,
    backend: str,
) -> LayerOutput:
    """Results of `stack` after all checks; a single sequence becomes a batch of one."""
    cell, directions = options.cell, 2 if options.bidirectional else 1
    kind = cell.partition("_")[0].upper()
    given = of_sequences(kind, input, states, options.lengths, options.resets)
    validation.check_present(weights)
    lowered = autocast.lowered(given.x, given.states, weights)
    if lowered is not None:
        given, weights = given.with_tensors(lowered.x, lowered.states), lowered.weights
    x = given.x
    validation.check_weights(weights, options.shapes, x)
    validation.check_sequence(x, weights[0], weights[0].shape[1])
    sizes, rows = layout(weights, cell), options.num_layers * directions
    shapes = ((rows, given.batch, sizes.output), (rows, given.batch, sizes.hidden))
    validation.check_state_sizes(given.states, shapes[: 2 if cell == "lstm" else 1])
    for state in given.states:
        validation.check_state_like(state, x)
    with nullcontext() if lowered is None else torch.autocast(x.device.type, enabled=False):
        output = stack(
            given,
            weights,
            cell=cell,
            reverse=(0, 1) if options.bidirectional else (0,),
            dropout=options.dropout,
            training=options.training,
            backend=backend,
        )
    return output if input.dim() == 3 else unbatched(output)
