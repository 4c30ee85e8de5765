# SPDX-License-Identifier: MIT
"""The autograd Functions of a layer and of its gradient, over the pair of ops of a backend.

Derivatives past the first come from the reference (`derivatives`). All take as many products for
one of float32 as the forward pass did.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._subclasses.functional_tensor import FunctionalTensor

from ..ops import PAIRS, OpPair, contiguous, copy
from .derivatives import Needs, Plan, backward_map, forward_map
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
    side_by_side,
    transformed,
    vjp,
)


class Inputs(NamedTuple):
    """The inputs of a layer besides its weights, or one value for each of them."""

    x: Any
    h0: Any
    c0: Any
    lengths: Any
    resets: Any

    @classmethod
    def part(cls, args: Sequence[Any]) -> "tuple[Inputs, Sequence[Any]]":
        """The inputs, and the rest of `args`, which belongs to the weights."""
        count = len(cls._fields)
        return cls(*args[:count]), args[count:]

    def moving(self, *weights: Any) -> tuple[Any, ...]:
        """The arguments a derivative can be taken by: x, h0, c0 and the weights."""
        return self.x, self.h0, self.c0, *weights


# Their batch axes, which weights do not have.
INPUT_AXES = Inputs(x=1, h0=1, c0=1, lengths=0, resets=1)


class BackwardInputs(NamedTuple):
    """The inputs of a layer's gradient besides the weights, or one value for each of them."""

    dy: Any
    dhn: Any
    dcn: Any
    x: Any
    h0: Any
    c0: Any
    lengths: Any
    resets: Any
    tape: Any
    y: Any

    @classmethod
    def part(cls, args: Sequence[Any]) -> "tuple[BackwardInputs, Sequence[Any]]":
        """The inputs, and the rest of `args`, which belongs to the weights."""
        count = len(cls._fields)
        return cls(*args[:count]), args[count:]

    @classmethod
    def unmoved(cls, dy: Any, dhn: Any, dcn: Any, x: Any, h0: Any, c0: Any) -> "BackwardInputs":
        """The inputs that a derivative can be taken by, and None for the others."""
        return cls(dy, dhn, dcn, x, h0, c0, None, None, None, None)

    def moving(self, *weights: Any) -> tuple[Any, ...]:
        """The arguments a derivative can be taken by: cotangents, x, h0, c0 and the weights."""
        return self.dy, self.dhn, self.dcn, self.x, self.h0, self.c0, *weights


BACKWARD_AXES = BackwardInputs(
    dy=1, dhn=1, dcn=1, x=1, h0=1, c0=1, lengths=0, resets=1, tape=1, y=1
)


class LayerFunction(Function):
    """A pass over a layer: (plan, *Inputs, *weights) -> (y, hn, cn, tape, saved_y)."""

    @staticmethod
    def forward(plan: Plan, *args: Maybe) -> tuple[Tensor, ...]:
        x, h0, c0, lengths, resets, *weights = args
        with torch._C._AutoDispatchBelowAutograd():
            return plan.pair.forward(
                *(x, h0, c0, weights, lengths, resets),
                *(plan.cell, plan.reverse, True, plan.products),
            )

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.plan, *args = inputs
        given, weights = Inputs.part(args)
        _, _, cn, *kept = output
        ctx.set_materialize_grads(False)
        # Without a cell state the op returns an empty tensor in its place.
        unmoved = kept if ctx.plan.cell == "lstm" else (cn, *kept)
        ctx.mark_non_differentiable(*unmoved)
        # As `BackwardInputs` has them, behind the cotangents.
        ctx.save_for_backward(*given, *kept, *weights)
        if transformed():
            ctx.save_for_forward(*args)

    @staticmethod
    def backward(ctx: Any, dy: Maybe, dhn: Maybe, dcn: Maybe, *_: Maybe) -> Many:
        saved, wanted = ctx.saved_tensors, ctx.needs_input_grad
        if dy is None and dhn is None and dcn is None:
            return (None,) * len(wanted)
        asked, of_weights = Inputs.part(wanted[1:])
        needs = Needs(asked.x, asked.h0 or asked.c0, any(of_weights))
        was = ctx.plan
        plan = Plan(was.pair, was.cell, was.reverse, needs, products=was.products)
        again = torch.is_grad_enabled() or transformed()
        gradients = LayerBackward.apply if again else LayerBackward.forward
        dx, dh0, dc0, *dweights = gradients(plan, dy, dhn, dcn, *saved)
        dx, dh0, dc0 = (None if absent(grad) else grad for grad in (dx, dh0, dc0))
        found = Inputs(dx, dh0, dc0, lengths=None, resets=None)
        return None, *found, *(dweights or (None,) * len(of_weights))

    @staticmethod
    def jvp(ctx: Any, _: None, *tangents: Maybe) -> Many:
        given, weights = Inputs.part(ctx.saved_tensors)
        function = forward_map(ctx.plan, given.lengths, given.resets)
        along, of_weights = Inputs.part(tangents)
        moved = jvp(function, given.moving(*weights), along.moving(*of_weights))
        return *moved, None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], plan: Plan, *args: Any) -> tuple[Any, Any]:
        def apply(*args: Maybe) -> tuple[Tensor, ...]:
            return LayerFunction.apply(plan, *args)

        dims, of_weights = Inputs.part(in_dims[1:])
        if _compact(args[0], dims.x) or any(d is not None for d in of_weights):
            return one_by_one(apply, info.batch_size, in_dims[1:], args)
        return side_by_side(apply, info.batch_size, in_dims[1:], args, INPUT_AXES)


class LayerBackward(Gradient):
    """The gradient of a layer: (plan, *BackwardInputs, *weights) -> gradients.

    They are dx, dh0, dc0 and, if needed, one for each weight.
    """

    @staticmethod
    def forward(plan: Plan, *args: Maybe) -> tuple[Tensor, ...]:
        dy, dhn, dcn, x, h0, c0, lengths, resets, tape, y, *weights = args
        if older_vmap_maps(dy, dhn, dcn):
            return older_vmap(partial(_mapped_backward, plan), args)
        dy, dhn, dcn = contiguous(dy, dhn, dcn)
        with torch._C._AutoDispatchBelowAutograd():
            dx, dh0, dc0, dweights = plan.pair.backward(
                *(dy, dhn, dcn, x, h0, c0, weights, lengths, resets, y, tape),
                *(plan.cell, plan.reverse, *plan.needs, plan.products),
            )
        return dx, dh0, dc0, *dweights

    @staticmethod
    def backward(ctx: Any, *cotangents: Maybe) -> Many:
        given, weights = BackwardInputs.part(ctx.saved_tensors)
        function = backward_map(ctx.plan, given.lengths, given.resets)
        dy, dhn, dcn, x, h0, c0, *of_weights = vjp(function, given.moving(*weights), cotangents)
        return None, *BackwardInputs.unmoved(dy, dhn, dcn, x, h0, c0), *of_weights

    @staticmethod
    def jvp(ctx: Any, _: None, *tangents: Maybe) -> Many:
        given, weights = BackwardInputs.part(ctx.saved_tensors)
        function = backward_map(ctx.plan, given.lengths, given.resets)
        along, of_weights = BackwardInputs.part(tangents)
        return jvp(function, given.moving(*weights), along.moving(*of_weights))

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], plan: Plan, *args: Maybe) -> tuple[Any, Any]:
        return _mapped_backward(plan, info.batch_size, in_dims[1:], *args)


def _mapped_backward(plan: Plan, size: int, dims: Sequence[Any], *args: Any) -> Mapped:
    def apply(*args: Maybe) -> tuple[Tensor, ...]:
        return LayerBackward.apply(plan, *args)

    axes, of_weights = BackwardInputs.part(dims)
    given, _ = BackwardInputs.part(args)
    shared = all(dim is None for dim in of_weights)
    if shared and not _compact(given.x, axes.x) and not plan.needs.dweights:
        return side_by_side(apply, size, dims, args, BACKWARD_AXES)
    return one_by_one(apply, size, dims, args)


def _compact(x: Tensor, mapped: int | None) -> bool:
    """Whether x holds compact rows, (rows, I), without an axis for the batch."""
    return x.dim() - (mapped is not None) == 2


def _owned(*tensors: Maybe) -> list[Maybe]:
    """The tensors to save, with copies in place of views in a graph that is being compiled.

    When it runs, it will take no notice of writes to a tensor of which it has saved a view.
    """
    return [copy(t) if isinstance(t, FunctionalTensor) and t._is_view() else t for t in tensors]


def _register(library: torch.library.Library, pair: OpPair) -> None:
    """Lets graphs that hold a pair of ops differentiate it by LayerFunction and LayerBackward."""

    def forward(*args: Any) -> Any:
        # The dispatcher leaves out a last argument that is the schema's default.
        x, h0, c0, weights, lengths, resets, cell, reverse, _, products = (*args, 6)[:10]
        if not (transformed() or records_gradient(x, h0, c0, *weights)):
            with torch._C._AutoDispatchBelowAutograd():
                return pair.forward(*args)
        plan = Plan(pair, cell, tuple(reverse), products=products)
        return LayerFunction.apply(plan, *_owned(x, h0, c0, lengths, resets, *weights))

    def backward(*args: Any) -> Any:
        dy, dhn, dcn, x, h0, c0, weights, lengths, resets, y, tape, cell, reverse, *rest = args
        if not (transformed() or records_gradient(dy, dhn, dcn, x, h0, c0, *weights)):
            with torch._C._AutoDispatchBelowAutograd():
                return pair.backward(*args)
        *needs, products = (*rest, 6)[:4]
        plan = Plan(pair, cell, tuple(reverse), Needs(*needs), products=products)
        dx, dh0, dc0, *dweights = LayerBackward.apply(
            plan, dy, dhn, dcn, x, h0, c0, lengths, resets, tape, y, *weights
        )
        return dx, dh0, dc0, dweights

    library.impl(pair.forward, forward, "Autograd")
    library.impl(pair.backward, backward, "Autograd")


_LIBRARY = torch.library.Library("fused_rnn", "IMPL")
for _pair in PAIRS.values():
    _register(_LIBRARY, _pair)
