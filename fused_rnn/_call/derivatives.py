# SPDX-License-Identifier: MIT
"""A layer and its gradient as maps of the reference, from which further derivatives come."""

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from torch import Tensor

from ..backends.reference import reference_layer
from ..ops import OpPair, batch_size, layout
from .compact_rows import CompactRows
from .functorch import Many, Map, Maybe, vjp


class Needs(NamedTuple):
    """Flags for the groups of gradients that a backward pass computes."""

    dx: bool
    dstate: bool
    dweights: bool


# Not a NamedTuple: torch.func would take it apart as a tree of arguments.
@dataclass(slots=True)
class Plan:
    """The settings that a pass over a layer depends on, besides its tensors."""

    pair: OpPair
    cell: str
    reverse: tuple[int, ...]
    needs: Needs = Needs(True, True, True)
    products: int = 6


def forward_map(plan: Plan, lengths: Maybe, resets: Maybe) -> Map:
    """The map (x, h0, c0, *weights) -> (y, hn, cn)."""

    def forward(x: Tensor, h0: Maybe, c0: Maybe, *weights: Tensor) -> Many:
        layer = partial(
            reference_layer, cell=plan.cell, reverse=plan.reverse, products=plan.products
        )
        if x.dim() == 3 or lengths is None:
            return tuple(layer(x, h0, c0, weights, lengths, resets))
        rows = CompactRows.of(lengths)
        marks = None if resets is None else rows.pad(resets)
        y, *states = layer(rows.pad(x), h0, c0, weights, lengths, marks)
        return rows.compact(y), *states

    return forward


def backward_map(plan: Plan, lengths: Maybe, resets: Maybe) -> Map:
    """The gradient map (dy, dhn, dcn, x, h0, c0, *weights) -> (dx, dh0, dc0, *dweights)."""
    forward = forward_map(plan, lengths, resets)
    needs = plan.needs

    def backward(
        dy: Maybe, dhn: Maybe, dcn: Maybe, x: Tensor, h0: Maybe, c0: Maybe, *weights: Tensor
    ) -> Many:
        if needs.dstate:
            sizes, leading = layout(weights, plan.cell), (len(plan.reverse), batch_size(x, lengths))
            h0 = x.new_zeros(*leading, sizes.output) if h0 is None else h0
            if plan.cell == "lstm" and c0 is None:
                c0 = x.new_zeros(*leading, sizes.hidden)
        dx, dh0, dc0, *dweights = vjp(forward, (x, h0, c0, *weights), (dy, dhn, dcn))
        dstate = (dh0, dc0) if needs.dstate else (None, None)
        return dx if needs.dx else None, *dstate, *(dweights if needs.dweights else ())

    return backward
