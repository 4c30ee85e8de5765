# SPDX-License-Identifier: MIT
"""The autograd Functions of a layer of cells with options, and of its gradient.

Derivatives past the first come from the reference.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..backends.reference import varied_layer
from ..ops import CELL_STATES, VARIED, CellInputs, CellOptions, OpPair, contiguous, outer
from .functorch import (
    Function,
    Gradient,
    Many,
    Mapped,
    Maybe,
    absent,
    jvp,
    older_vmap,
    older_vmap_maps,
    one_by_one,
    records_gradient,
    transformed,
    vjp,
)


# Not a NamedTuple: torch.func would take it apart as a tree of arguments.
@dataclass(slots=True)
class VariedPlan:
    """The settings that a pass over a layer depends on, besides its tensors."""

    pair: OpPair
    options: CellOptions
    wanted: tuple[bool, ...] = ()  # gradients, of `CellInputs.moving`


class VariedFunction(Function):
    """A pass over a layer: (plan, *CellInputs) -> (y, hn, cn, cells, tape, saved_y)."""

    @staticmethod
    def forward(plan: VariedPlan, *args: Maybe) -> tuple[Tensor, ...]:
        with torch._C._AutoDispatchBelowAutograd():
            return plan.pair.forward(*args, *plan.options, True)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.plan, *args = inputs
        _, _, cn, cells, *kept = output
        ctx.set_materialize_grads(False)
        # In place of what there is not the op returns an empty tensor.
        options = ctx.plan.options
        missing = [] if CELL_STATES[options.cell] else [cn]
        missing += [] if options.every_cell else [cells]
        ctx.mark_non_differentiable(*missing, *kept)
        ctx.save_for_backward(*args, *kept)

    @staticmethod
    def backward(ctx: Any, dy: Maybe, dhn: Maybe, dcn: Maybe, dcells: Maybe, *_: Maybe) -> Many:
        *given, tape, y = ctx.saved_tensors
        wanted = ctx.needs_input_grad
        if dy is None and dhn is None and dcn is None and dcells is None:
            return (None,) * len(wanted)
        inputs = CellInputs(*given)
        was = ctx.plan
        plan = VariedPlan(was.pair, was.options, wanted[1 : 1 + len(inputs.moving)])
        again = torch.is_grad_enabled() or transformed()
        gradients = VariedBackward.apply if again else VariedBackward.forward
        found = gradients(plan, dy, dhn, dcn, dcells, *inputs, y, tape)
        pairs = zip(found, inputs.moving, plan.wanted, strict=True)
        moving = [grad if asked and t is not None else None for grad, t, asked in pairs]
        return None, *moving, *(None for _ in inputs.fixed)


class VariedBackward(Gradient):
    """The gradient of a layer: (plan, dy, dhn, dcn, dcells, *CellInputs, y, tape) -> gradients.

    They are those of `CellInputs.moving`, absent ones empty.
    """

    @staticmethod
    def forward(plan: VariedPlan, *args: Maybe) -> tuple[Tensor, ...]:
        cotangents, rest = args[:4], args[4:]
        if older_vmap_maps(*cotangents):
            return older_vmap(partial(_one_by_one, plan), args)
        given = (*contiguous(*cotangents), *rest, *plan.options)
        with torch._C._AutoDispatchBelowAutograd():
            dx, dparts, factors, dh0, dc0, sums = plan.pair.backward(*given)
            if absent(factors):
                # The reference has the gradients of all weights.
                return dx, dh0, dc0, *sums
            dparts = dx if absent(dparts) else dparts
            dw_hh = dx.new_empty(0)
            if plan.wanted[3]:
                # Of each recurrence one product over all steps and rows.
                dw_hh = outer(dparts.flatten(0, 1), factors.flatten(0, 1))
        return dx, dh0, dc0, dw_hh, *sums

    @staticmethod
    def backward(ctx: Any, *cotangents: Maybe) -> Many:
        *given, _, _ = ctx.saved_tensors
        inputs = CellInputs(*given[4:])
        function = partial(_gradients, ctx.plan.options, inputs)
        found = vjp(function, (*given[:4], *inputs.moving), cotangents)
        return None, *found, *(None for _ in inputs.fixed), None, None

    @staticmethod
    def jvp(ctx: Any, _: None, *tangents: Maybe) -> Many:
        *given, _, _ = ctx.saved_tensors
        inputs, along = CellInputs(*given[4:]), CellInputs(*tangents[4:-2])
        function = partial(_gradients, ctx.plan.options, inputs)
        return jvp(function, (*given[:4], *inputs.moving), (*tangents[:4], *along.moving))

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], plan: VariedPlan, *args: Maybe) -> Mapped:
        return _one_by_one(plan, info.batch_size, in_dims[1:], *args)


def _one_by_one(plan: VariedPlan, size: int, dims: Sequence[Any], *args: Any) -> Mapped:
    return one_by_one(lambda *args: VariedBackward.apply(plan, *args), size, dims, args)


def _gradients(options: CellOptions, inputs: CellInputs, *cotangents_and_moving: Any) -> Many:
    """The gradients of `inputs.moving` by the reference; absent ones None."""
    cotangents, moving = cotangents_and_moving[:4], cotangents_and_moving[4:]
    # The op returns the gradients of states, absent ones too.
    with_states = CellInputs(*moving).with_states(options.cell)

    def outputs(*moving: Maybe) -> Many:
        return tuple(varied_layer(options, CellInputs(*moving, *inputs.fixed)))

    return vjp(outputs, with_states.moving, cotangents)


def _register(library: torch.library.Library, pair: OpPair) -> None:
    """Lets graphs that hold a pair of ops differentiate it once, by VariedFunction."""

    def forward(*args: Any) -> Any:
        count = len(CellInputs._fields)
        inputs, options = CellInputs(*args[:count]), CellOptions(*args[count:-1])
        if not (transformed() or records_gradient(*inputs.moving)):
            with torch._C._AutoDispatchBelowAutograd():
                return pair.forward(*args)
        plan = VariedPlan(pair, options._replace(reverse=tuple(options.reverse)))
        return VariedFunction.apply(plan, *inputs)

    def backward(*args: Any) -> Any:
        if records_gradient(*(t for t in args if isinstance(t, Tensor))):
            raise RuntimeError(f"{pair.backward.name()}: expected no gradient of it, it has none")
        with torch._C._AutoDispatchBelowAutograd():
            return pair.backward(*args)

    library.impl(pair.forward, forward, "Autograd")
    library.impl(pair.backward, backward, "Autograd")


_LIBRARY = torch.library.Library("fused_rnn", "IMPL")
for _pair in VARIED.values():
    _register(_LIBRARY, _pair)
