# SPDX-License-Identifier: MIT
"""Stateless recurrent layers: `rnn`, `gru` and `lstm` over weights in torch.nn's flat order.

Under autocast they compute and return the autocast dtype, as the modules do. float32 on the CPU
follows torch.set_float32_matmul_precision (`products`).
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.nn.functional import dropout as drop

from . import autograd, backends, precision, torch_backend, validation
from .autograd import contiguous, layer, records_gradient, takes_packed, transformed
from .ops import GATES, LayerOutput, copy, layout
from .packing import Packing
from .pieces import Layer

Lengths = Tensor | Sequence[int] | None


def stack(
    x: Tensor,
    h0: Tensor | None,
    c0: Tensor | None,
    weights: Sequence[Tensor],
    lengths: Tensor | None,
    resets: Tensor | None,
    *,
    cell: str,
    reverse: tuple[int, ...],
    dropout: float,
    training: bool,
    backend: str,
    packing: Packing | None = None,
    kept: list[Layer] | None = None,
) -> LayerOutput:
    """The last layer's outputs and every layer's final states; nothing is checked here.

    Args:
        x: input sequence, (T, B, I), or the rows of packed input, (rows, I).
        h0: initial states, (L*D, B, P); None is zeros.
        c0: initial cell states of the LSTM, (L*D, B, H); None is zeros.
        weights: torch.nn's order, layer by layer, direction by direction.
        lengths: steps of each row, (B,) int64; None is T for all.
        resets: marks before which a row's sequence is cut, (T, B) bool, or (rows,); None is no
            mark.
        cell: a key of `ops.GATES`.
        reverse: of each of a layer's D recurrences, 1 where it walks backward in time.
        dropout: probability between layers, in training.
        backend: a backend's name or "auto".
        packing: of packed input, which brings its own lengths; None is no packed input.
        kept: a list that takes what goes in and out of every layer, of packed input; None is none.

    Returns:
        y (T, B, D*P) or (rows, D*P), hn (L*D, B, P), cn (L*D, B, H) or None.
    """
    shape = layout(weights, cell)
    if lengths is not None or resets is not None:
        lengths, resets = _kept(lengths, resets, by=(x, h0, c0, *weights))
    options = (reverse, resets is not None, shape.projection, x.device.index, shape.hidden)
    name = backends.choose(backends.Query(cell, x.dtype, x.device.type, *options), backend)
    count = len(weights) // (shape.per_recurrence * len(reverse))
    # Where weights are laid out for it; see `FlatWeights.flatten_parameters`.
    at_once = name == "torch" and count > 1 and not dropout and not torch.compiler.is_compiling()
    at_once = at_once and kept is None
    at_once = at_once and autograd.operation_by_operation(name, x)
    how = _How(cell, reverse, name, at_once)
    between = partial(drop, p=dropout) if training and dropout else None
    if packing is None:
        return _layers(how, count, x, h0, c0, weights, lengths, resets, between)
    if takes_packed(name, x.device):
        return _layers(how, count, x, h0, c0, weights, packing.lengths, resets, between, kept)

    def on_grid(y: Tensor) -> Tensor:
        # Dropped out as packed rows: those are the random numbers torch.nn draws.
        return packing.pad(drop(packing.pack(y), dropout))

    x, resets = packing.pad(x), None if resets is None else packing.pad(resets)
    lengths = None if packing.even else packing.lengths
    dropped = on_grid if between else None
    y, hn, cn = _layers(how, count, x, h0, c0, weights, lengths, resets, dropped, kept)
    if kept is not None:
        kept[:] = [Layer(packing.pack(x), packing.pack(y)) for x, y in kept]
    return LayerOutput(packing.pack(y), hn, cn)


def _kept(*tensors: Tensor | None, by: Sequence[Tensor | None]) -> list[Tensor | None]:
    """The tensors, as copies where a derivative by some others may need them later.

    Lengths and marks live in buffers that are filled anew, and PyTorch does not see all writes.
    """
    transforms = transformed()
    if not (transforms or records_gradient(*by)):
        return list(tensors)
    traced = torch.compiler.is_compiling() and not transforms
    make = copy if traced else partial(Tensor.clone, memory_format=torch.contiguous_format)
    return [None if t is None else make(t) for t in tensors]


class _How(NamedTuple):
    """What all layers of a stack share."""

    cell: str
    reverse: tuple[int, ...]
    backend: str
    at_once: bool  # PyTorch runs them all in one call


def _layers(
    how: _How,
    count: int,
    x: Tensor,
    h0: Tensor | None,
    c0: Tensor | None,
    weights: Sequence[Tensor],
    lengths: Tensor | None,
    resets: Tensor | None,
    between: Callable[[Tensor], Tensor] | None,
    kept: list[Layer] | None = None,
) -> LayerOutput:
    """`count` layers, with `between` applied between them, and what passes them in `kept`."""
    cell, reverse, backend, at_once = how
    if at_once:
        y, hn, cn = torch_backend.layer(
            x, h0, c0, weights, lengths, cell=cell, reverse=reverse, layers=count
        )
        return LayerOutput(y.flatten(-2), hn, cn)
    run = partial(
        layer, lengths=lengths, resets=resets, cell=cell, reverse=reverse, backend=backend
    )
    if count == 1 and kept is None:
        y, hn, cn = run(x, h0, c0, weights)
        # One direction needs no more than a squeeze, the cheaper view.
        return LayerOutput(y.squeeze(-2) if len(reverse) == 1 else y.flatten(-2), hn, cn)
    per = len(weights) // count
    hs, cs = [], []
    for at in range(count):
        if at and between is not None:
            x = between(x)
        h, c = (None if s is None else s.chunk(count)[at] for s in (h0, c0))
        y, hn, cn = run(x, h, c, weights[at * per : (at + 1) * per])
        y = y.flatten(-2)
        if kept is not None:
            kept.append(Layer(x, y))
        x = y
        hs.append(hn)
        cs.append(cn)
    cells = None if cs[0] is None else torch.cat([c for c in cs if c is not None])
    return LayerOutput(x, torch.cat(hs), cells)


def inferred_stack(
    runs: Sequence[Callable[..., Sequence[Any]]],
    x: Tensor,
    h0: Tensor | None,
    c0: Tensor | None,
    lengths: Tensor | None,
    resets: Tensor | None,
    kept: list[Layer] | None = None,
) -> LayerOutput:
    """What `stack` returns, of ops without derivatives: no gradients, no dropout.

    Args:
        runs: of each layer, what returns y (T, B, N*P), hn and cn of (x, h, c, lengths, resets).
        others: as `stack` takes them.
    """
    x, h0, c0, lengths, resets = contiguous(x, h0, c0, lengths, resets)
    if len(runs) == 1 and kept is None:
        return LayerOutput(*runs[0](x, h0, c0, lengths, resets))
    hs, cs = [], []
    before = [[None] * len(runs) if s is None else s.chunk(len(runs)) for s in (h0, c0)]
    for h, c, run in zip(*before, runs, strict=True):
        y, hn, cn = run(x, h, c, lengths, resets)
        if kept is not None:
            kept.append(Layer(x, y))
        x = y
        hs.append(hn)
        cs.append(cn)
    return LayerOutput(x, torch.cat(hs), None if cs[0] is None else torch.cat(cs))


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
    """`stack` after all checks; a single sequence is a batch of one."""
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
