# SPDX-License-Identifier: MIT
"""An LSTM layer with c after every step, as the CPU kernels keep it for their backward pass."""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor

from ..backends.backend import Backend
from ..ops import PAIRS, CellOutput, cells_backward, contiguous
from .arguments import Arguments
from .autograd import Inputs, LayerFunction
from .compact_rows import CompactRows
from .derivatives import Needs, Plan, forward_map
from .functorch import (
    Function,
    Many,
    Mapped,
    Maybe,
    absent,
    older_vmap,
    older_vmap_maps,
    one_by_one,
    transformed,
    vjp,
)
from .matmul_precision import products_of
from .pieces import Passed, cell_states

# Of the tape, (rows, N, slots, H).
_CELL_SLOT = 4


def tells_cells(cell: str, backend: Backend, x: Tensor) -> bool:
    """Whether the backend has c after every step; else it follows from what goes in and out."""
    traced = torch.compiler.is_compiling() or torch._C._is_tracing() or transformed()
    return cell == "lstm" and backend.name == "native" and x.device.type == "cpu" and not traced


def run_layer_with_cells(
    given: Arguments, weights: Sequence[Tensor], reverse: tuple[int, ...]
) -> CellOutput:
    """The results of an LSTM layer, as `dispatch.run_layer` gives them, and c after every step.

    Args:
        given: of one layer in compact rows, without resets.
        weights: torch.nn's order, recurrence by recurrence.
        reverse: N flags, 1 where the recurrence walks backward in time.
    """
    if given.rows is None:
        raise ValueError("rows: expected compact ones, got None")
    x, h0, c0, lengths, *weights = contiguous(
        given.x, given.h0, given.c0, given.rows.lengths, *weights
    )
    plan = Plan(PAIRS["native"], "lstm", reverse, products=products_of(x))
    y, hn, cn, cells, *_ = CellsFunction.apply(plan, x, h0, c0, lengths, None, *weights)
    return CellOutput(y, hn, cn, cells)


class CellsFunction(Function):
    """A pass over a layer: (plan, *Inputs, *weights) -> (y, hn, cn, cells, tape, saved_y)."""

    @staticmethod
    def forward(plan: Plan, *args: Maybe) -> tuple[Tensor, ...]:
        y, hn, cn, tape, saved_y = LayerFunction.forward(plan, *args)
        cells = tape.select(-2, _CELL_SLOT)
        cells = cells.to(y.dtype, memory_format=torch.contiguous_format, copy=True)
        return y, hn, cn, cells, tape, saved_y

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.plan, *args = inputs
        given, weights = Inputs.part(args)
        *_, tape, saved_y = output
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(tape, saved_y)
        ctx.save_for_backward(*given, tape, saved_y, *weights)

    @staticmethod
    def backward(ctx: Any, *cotangents: Maybe) -> Many:
        saved, wanted = ctx.saved_tensors, ctx.needs_input_grad
        dy, dhn, dcn, dcells, *_ = cotangents
        if dy is None and dhn is None and dcn is None and dcells is None:
            return (None,) * len(wanted)
        asked, of_weights = Inputs.part(wanted[1:])
        if torch.is_grad_enabled() or transformed():
            given, (_, _, *weights) = Inputs.part(saved)
            function = _reference_map(ctx.plan, given.lengths)
            found = vjp(function, given.moving(*weights), (dy, dhn, dcn, dcells))
        else:
            needs = Needs(asked.x, asked.h0 or asked.c0, any(of_weights))
            found = _gradients(ctx.plan, needs, dcells, dy, dhn, dcn, *saved)
        moving, dweights = found[:3], found[3:]
        dx, dh0, dc0 = (None if grad is None or absent(grad) else grad for grad in moving)
        return None, dx, dh0, dc0, None, None, *(dweights or (None,) * len(of_weights))


def _gradients(plan: Plan, needs: Needs, *args: Any) -> tuple[Tensor, ...]:
    """The gradients by the kernels: of (dcells, dy, dhn, dcn, *Inputs, tape, y, *weights).

    Those of x, h0 and c0, empty where nobody needs them, and of the weights if needed.
    """
    if older_vmap_maps(*args[:4]):

        def rule(size: int, dims: Sequence[int | None], *args: Any) -> Mapped:
            return one_by_one(lambda *one: _gradients(plan, needs, *one), size, dims, args)

        return older_vmap(rule, args)
    dcells, dy, dhn, dcn, x, h0, c0, lengths, resets, tape, y, *weights = args
    dcells = None if dcells is None else dcells.to(tape.dtype)
    dcells, dy, dhn, dcn = contiguous(dcells, dy, dhn, dcn)
    with torch._C._AutoDispatchBelowAutograd():
        dx, dh0, dc0, dweights = cells_backward(
            *(dcells, dy, dhn, dcn, x, h0, c0, weights, lengths, resets, y, tape),
            *(plan.cell, plan.reverse, *needs, plan.products),
        )
    return dx, dh0, dc0, *dweights


def _reference_map(plan: Plan, lengths: Tensor) -> Any:
    """The map (x, h0, c0, *weights) -> (y, hn, cn, cells) of the reference."""
    layer = forward_map(plan, lengths, None)
    rows = CompactRows.of(lengths)

    def run(x: Tensor, h0: Tensor, c0: Tensor, *weights: Tensor) -> Many:
        y, hn, cn = layer(x, h0, c0, *weights)
        passed = Passed(x, cast(Tensor, y).flatten(-2))
        return y, hn, cn, cell_states(passed, h0, c0, weights, plan.reverse, rows)

    return run
