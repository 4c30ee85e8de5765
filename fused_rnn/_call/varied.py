# SPDX-License-Identifier: MIT
"""Layers of cells with options: products of their inputs in one op, recurrences in another."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..backends import choice
from ..backends.backend import query_of
from ..backends.reference import varied_layer
from ..ops import (
    CELL_STATES,
    COMPILED,
    VARIED,
    CellInputs,
    CellOptions,
    CellOutput,
    LayerOutput,
    contiguous,
    sum_dtype,
)
from . import recomputed  # noqa: F401  # brings the kernels of its ops
from .arguments import Arguments, run_on_grid
from .exporting import refuse_onnx
from .functorch import Maybe, records_gradient, transformed
from .pieces import Passed
from .products import linear
from .stack import dropout_between
from .varied_autograd import VariedFunction, VariedPlan
from .variety import Variety


class _How(NamedTuple):
    """The settings that all layers of a stack share."""

    variety: Variety
    cell: str
    reverse: tuple[int, ...]
    training: bool
    backend: str
    every_cell: bool  # those of all steps are wanted


def varied_stack(
    given: Arguments,
    weights: Sequence[Tensor],
    variety: Variety,
    *,
    cell: str,
    reverse: tuple[int, ...],
    bias: bool,
    dropout: float,
    training: bool,
    backend: str,
    kept: list[Passed] | None = None,
) -> LayerOutput:
    """The last layer's outputs and every layer's final states.

    Args:
        given: the call; its tensors fit one another.
        weights: those of `variety.weights`, layer by layer, recurrence by recurrence.
        variety: the options; those of weights are in the weights already.
        bias: whether there are biases.
        cell, reverse, dropout, training, backend, kept: as `stack` takes them.
    """
    names = variety.weights(cell, bias)
    x, marked = given.x, given.resets is not None
    query = query_of(cell, x, weights[1].shape[1], reverse, resets=marked)._replace(varied=True)
    chosen = choice.choose(query, backend)
    how = _How(variety, cell, reverse, training, chosen, kept is not None)
    own = [dict(zip(names, part, strict=True)) for part in _cut(weights, len(names))]
    layers = _cut(own, len(reverse))

    between = dropout_between(dropout if training else 0.0, given.rows)

    def run(given: Arguments) -> LayerOutput:
        x, h0, c0, lengths, resets, _ = given
        states = [[None] * len(layers) if s is None else s.chunk(len(layers)) for s in (h0, c0)]
        hs, cs = [], []
        for at, (h, c, of_layer) in enumerate(zip(*states, layers, strict=True)):
            if at and between is not None:
                x = between(x)
            y, hn, cn, cells = _run_layer(how, given._replace(x=x, h0=h, c0=c), of_layer)
            if kept is not None:
                kept.append(Passed(x, y, cells))
            x = y
            hs.append(hn)
            cs.append(cn)
        last = None if cs[0] is None else torch.cat([c for c in cs if c is not None])
        return LayerOutput(x, torch.cat(hs), last)

    return run_on_grid(run, given, kept)


def _cut(items: Sequence[Any], size: int) -> list[Sequence[Any]]:
    return [items[at : at + size] for at in range(0, len(items), size)]


def _run_layer(how: _How, given: Arguments, weights: Sequence[dict[str, Tensor]]) -> CellOutput:
    """The outputs (T, B, N*H), final states and cells (T, B, N*H) of one layer."""
    x, h0, c0, lengths, resets, _ = given
    out, inner = x.dtype, sum_dtype(x.dtype)
    x, *states = x.to(inner), *(None if t is None else t.to(inner) for t in (h0, c0))
    if lengths is not None:
        # What stands past a row's end must not reach a sum, not even times zero: it may be NaN.
        inside = torch.arange(x.shape[0], device=x.device).unsqueeze(1) < lengths
        x = torch.where(inside.unsqueeze(2), x, 0)

    def stacked(name: str) -> Maybe:
        parts = [own[name].to(inner) for own in weights if name in own]
        if len(parts) == 1:
            return parts[0].unsqueeze(0)
        return torch.stack(parts) if parts else None

    # Normalised parts get their bias afterwards.
    parts, b_ih = [own["w_ih"].to(inner) for own in weights], stacked("b_ih")
    w_ih = parts[0] if len(parts) == 1 else torch.cat(parts)
    early = None if b_ih is None or how.variety.layer_norm else b_ih.flatten()
    xg = linear(x, w_ih, early, how.backend).unflatten(-1, (len(parts), -1))
    names = ("w_hh", "b_hh", "x_scale", "h_scale", "c_scale", "c_bias", "peephole")
    named = {name: stacked(name) for name in names}
    options = _options(how, inner)
    inputs = CellInputs(
        x=xg,
        h0=states[0],
        c0=states[1],
        x_bias=b_ih if how.variety.layer_norm else None,
        **named,
        seeds=_seeds(how, options, x),
        lengths=lengths,
        resets=resets,
    )
    y, hn, cn, cells = _run_cells(how, options, inputs)
    cn, cells = (None if t is None else t.to(out) for t in (cn, cells))
    flat = None if cells is None else cells.flatten(-2)
    return CellOutput(y.flatten(-2).to(out), hn.to(out), cn, flat)


def _options(how: _How, dtype: torch.dtype) -> CellOptions:
    own, lstm = how.variety, how.cell == "lstm"
    clip = None if own.clip is None else min(own.clip, torch.finfo(dtype).max)
    return CellOptions(
        how.cell,
        how.reverse,
        "relu" if how.cell == "rnn_relu" else own.activation,
        own.gate_activation,
        own.zoneout,
        own.zoneout_cell if lstm else 0.0,
        own.drops,
        own.recurrent_dropout_mode == "variational",
        own.layer_norm_eps,
        clip,
        how.every_cell and CELL_STATES[how.cell] > 0,
    )


def _seeds(how: _How, options: CellOptions, x: Tensor) -> Maybe:
    """A seed for the masks of each row, from torch's generator, where something is drawn."""
    draws = options.zoneout or options.zoneout_cell or options.dropout
    if not (how.training and draws):
        return None
    return torch.randint(-(1 << 63), (1 << 63) - 1, (x.shape[1],), device=x.device)


def _run_cells(how: _How, options: CellOptions, given: CellInputs) -> CellOutput:
    """The results of one layer's recurrences."""
    tracing = torch.compiler.is_compiling()
    if transformed() or not (tracing or how.backend in COMPILED):
        return varied_layer(options, given)
    if tracing or torch._C._is_tracing():
        refuse_onnx()
    pair, inputs = VARIED[how.backend], CellInputs(*contiguous(*given))
    if tracing:
        # Its kernel for autograd keeps a tape wherever it records one.
        y, hn, cn, cells, *_ = pair.forward(*inputs, *options, False)
    elif records_gradient(*inputs.moving):
        y, hn, cn, cells, *_ = VariedFunction.apply(VariedPlan(pair, options), *inputs)
    else:
        with torch._C._AutoDispatchBelowAutograd():
            y, hn, cn, cells, *_ = pair.forward(*inputs, *options, False)
    last = cn if CELL_STATES[options.cell] else None
    return CellOutput(y, hn, last, cells if options.every_cell else None)
