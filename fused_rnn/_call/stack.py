# SPDX-License-Identifier: MIT
"""Layers upon layers on a chosen backend; nothing is checked here."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import dropout as drop

from ..backends import choice
from ..backends.backend import Backend, query_of
from ..ops import LayerOutput, contiguous, copy, layout
from .arguments import Arguments, run_on_grid
from .compact_rows import CompactRows
from .dispatch import operation_by_operation, run_layer
from .every_cell import run_layer_with_cells, tells_cells
from .functorch import records_gradient, transformed
from .pieces import Passed


def stack(
    given: Arguments,
    weights: Sequence[Tensor],
    *,
    cell: str,
    reverse: tuple[int, ...],
    dropout: float,
    training: bool,
    backend: str,
    kept: list[Passed] | None = None,
) -> LayerOutput:
    """The last layer's outputs and every layer's final states.

    Args:
        given: the call; its tensors fit one another.
        weights: torch.nn's order, layer by layer, direction by direction.
        cell: a key of `ops.GATES`.
        reverse: of each of a layer's D recurrences, 1 where it walks backward in time.
        dropout: probability between layers, in training.
        backend: a backend's name or "auto".
        kept: takes what goes in and out of every layer, of compact rows; None is nothing.

    Returns:
        y (T, B, D*P) or (rows, D*P), hn (L*D, B, P), cn (L*D, B, H) or None.
    """
    x, h0, c0, lengths, resets, rows = given
    sizes = layout(weights, cell)
    if lengths is not None or resets is not None:
        lengths, resets = _held(lengths, resets, by=(x, h0, c0, *weights))
        given = Arguments(x, h0, c0, lengths, resets, rows)
    marked = resets is not None
    query = query_of(cell, x, sizes.hidden, reverse, resets=marked, projection=sizes.projection)
    own = choice.BACKENDS[choice.choose(query, backend)]
    count = len(weights) // (sizes.per_recurrence * len(reverse))
    # Where weights are laid out for it; see `FlatWeights.flatten_parameters`.
    at_once = own.run_stack is not None and count > 1 and not dropout and kept is None
    at_once = at_once and not torch.compiler.is_compiling() and operation_by_operation(own, x)
    how = _How(cell, reverse, own, at_once)
    probability = dropout if training else 0.0
    if rows is None or own.takes_compact_rows(x.device):
        return _layers(how, count, given, weights, dropout_between(probability), kept)
    on_grid = dropout_between(probability, rows)

    def padded(given: Arguments) -> LayerOutput:
        return _layers(how, count, given, weights, on_grid, kept)

    return run_on_grid(padded, given, kept)


def dropout_between(
    probability: float, rows: CompactRows | None = None
) -> Callable[[Tensor], Tensor] | None:
    """The dropout of what passes from layer to layer, if there is any.

    Args:
        probability: of a zero.
        rows: those of a packed input that passes as a padded grid. It is dropped out as compact
            rows all the same: those are the random numbers torch.nn draws.
    """
    if not probability:
        return None
    dropped = partial(drop, p=probability)
    return dropped if rows is None else lambda grid: rows.pad(dropped(rows.compact(grid)))


def _held(*tensors: Tensor | None, by: Sequence[Tensor | None]) -> list[Tensor | None]:
    """The tensors, as copies where a derivative by those of `by` may need them later.

    Lengths and marks live in buffers that are filled anew, and PyTorch does not see all writes.
    """
    transforms = transformed()
    if not (transforms or records_gradient(*by)):
        return list(tensors)
    traced = torch.compiler.is_compiling() and not transforms
    make = copy if traced else partial(Tensor.clone, memory_format=torch.contiguous_format)
    return [None if t is None else make(t) for t in tensors]


class _How(NamedTuple):
    """The settings that all layers of a stack share."""

    cell: str
    reverse: tuple[int, ...]
    backend: Backend
    at_once: bool  # PyTorch runs them all in one call


def _layers(
    how: _How,
    count: int,
    given: Arguments,
    weights: Sequence[Tensor],
    between: Callable[[Tensor], Tensor] | None,
    kept: list[Passed] | None,
) -> LayerOutput:
    """The results of `count` layers, `between` applied between them; `kept` takes what passes."""
    cell, reverse, backend, at_once = how
    if at_once and backend.run_stack is not None:
        x, h0, c0, lengths, *_ = given
        y, hn, cn = backend.run_stack(
            x, h0, c0, weights, lengths, cell=cell, reverse=reverse, layers=count
        )
        return LayerOutput(y.flatten(-2), hn, cn)
    if count == 1 and kept is None:
        y, hn, cn = run_layer(given, weights, cell=cell, reverse=reverse, backend=backend)
        # One direction needs no more than a squeeze, the cheaper view.
        return LayerOutput(y.squeeze(-2) if len(reverse) == 1 else y.flatten(-2), hn, cn)
    per, x, states = len(weights) // count, given.x, (given.h0, given.c0)
    hs, cs = [], []
    for at in range(count):
        if at and between is not None:
            x = between(x)
        h, c = (None if s is None else s.chunk(count)[at] for s in states)
        given, own = given._replace(x=x, h0=h, c0=c), weights[at * per : (at + 1) * per]
        cells = None
        if kept is not None and tells_cells(cell, backend, x):
            y, hn, cn, cells = run_layer_with_cells(given, own, reverse)
        else:
            y, hn, cn = run_layer(given, own, cell=cell, reverse=reverse, backend=backend)
        y = y.flatten(-2)
        if kept is not None:
            kept.append(Passed(x, y, None if cells is None else cells.flatten(-2)))
        x = y
        hs.append(hn)
        cs.append(cn)
    last = None if cs[0] is None else torch.cat([c for c in cs if c is not None])
    return LayerOutput(x, torch.cat(hs), last)


def inferred_stack(
    layers: Sequence[Callable[..., Sequence[Any]]],
    given: Arguments,
    kept: list[Passed] | None = None,
) -> LayerOutput:
    """The results of `stack` by ops without derivatives: no gradients, no dropout.

    Args:
        layers: of each, what returns y (T, B, N*P), hn and cn of (x, h, c, lengths, resets).
        given, kept: as `stack` takes them.
    """
    lengths = given.lengths if given.rows is None else given.rows.lengths
    x, h0, c0, lengths, resets = contiguous(given.x, given.h0, given.c0, lengths, given.resets)
    if len(layers) == 1 and kept is None:
        return LayerOutput(*layers[0](x, h0, c0, lengths, resets))
    hs, cs = [], []
    before = [[None] * len(layers) if s is None else s.chunk(len(layers)) for s in (h0, c0)]
    for h, c, layer in zip(*before, layers, strict=True):
        y, hn, cn = layer(x, h, c, lengths, resets)
        if kept is not None:
            kept.append(Passed(x, y))
        x = y
        hs.append(hn)
        cs.append(cn)
    return LayerOutput(x, torch.cat(hs), None if cs[0] is None else torch.cat(cs))
