# SPDX-License-Identifier: MIT
"""Layers upon layers on a chosen backend; nothing is checked here."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import dropout as drop

from . import autograd, backends, torch_backend
from .autograd import contiguous, layer, records_gradient, takes_packed, transformed
from .calls import run_on_grid
from .ops import LayerOutput, copy, layout
from .packing import Packing
from .pieces import Layer


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
    """The last layer's outputs and every layer's final states.

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
        kept: takes what goes in and out of every layer, of packed input; None is nothing.

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
    if packing is None or takes_packed(name, x.device):
        lengths = lengths if packing is None else packing.lengths
        return _layers(how, count, x, h0, c0, weights, lengths, resets, between, kept)
    # Dropped out as packed rows: those are the random numbers torch.nn draws.
    on_grid = None if between is None else _on_rows(between, packing)

    def run(x: Tensor, lengths: Tensor | None, resets: Tensor | None) -> LayerOutput:
        return _layers(how, count, x, h0, c0, weights, lengths, resets, on_grid, kept)

    return run_on_grid(run, x, resets, packing, kept)


def _on_rows(function: Callable[[Tensor], Tensor], packing: Packing) -> Callable[[Tensor], Tensor]:
    """A function of the padded grid that applies a function of packed rows."""
    return lambda grid: packing.pad(function(packing.pack(grid)))


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
    kept: list[Layer] | None,
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
