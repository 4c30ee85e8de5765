# SPDX-License-Identifier: MIT
"""One layer on any backend, differentiable: two faces over the same pair of ops.

Eager code and torch.func go through autograd Functions that know vmap, forward mode and their own
derivative. torch.compile refuses a Function with a `jvp`: there the op itself stands in the graph,
and its kernel for autograd calls the same Function. Derivatives past the first come from the
reference. All derivatives take as many products for one of float32 as the forward pass did.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._subclasses import FakeTensor
from torch._subclasses.functional_tensor import FunctionalTensor
from torch.autograd import forward_ad

from . import recomputed, reference
from .exporting import refuse_onnx, to_foreign_onnx
from .ops import PAIRS, RECOMPUTED, LayerOutput, OpPair, batch_size, copy, layout
from .packing import Packing
from .products import products_of
from .transforms import (
    Function,
    Many,
    Map,
    Mapped,
    Maybe,
    absent,
    jvp,
    older_vmap,
    older_vmap_maps,
    one_by_one,
    side_by_side,
    vjp,
)

# Batch axes of what the Functions take, after the plan: x h0 c0 lengths resets, and
# dy dhn dcn x h0 c0 lengths resets tape y.
_FORWARD_AXES = (1, 1, 1, 0, 1)
_BACKWARD_AXES = (1, 1, 1, 1, 1, 1, 0, 1, 1, 1)


class Needs(NamedTuple):
    """Which groups of gradients a backward pass computes."""

    dx: bool
    dstate: bool
    dweights: bool


# Not a NamedTuple: torch.func would take it apart as a tree of arguments.
@dataclass(slots=True)
class Plan:
    """What a pass over a layer depends on besides its tensors."""

    pair: OpPair
    cell: str
    reverse: tuple[int, ...]
    needs: Needs = Needs(True, True, True)
    products: int = 6


def layer(
    x: Tensor,
    h0: Maybe,
    c0: Maybe,
    weights: Sequence[Tensor],
    lengths: Maybe,
    resets: Maybe,
    *,
    cell: str,
    reverse: tuple[int, ...],
    backend: str,
) -> LayerOutput:
    """The outputs and final states of N recurrences over one input, on the backend named.

    Args:
        x: input sequence, (T, B, I), or where `takes_packed` packed rows, (rows, I).
        h0: initial states, (N, B, P); None is zeros.
        c0: initial cell states of the LSTM, (N, B, H); None is zeros.
        weights: torch.nn's order, recurrence by recurrence.
        lengths: steps of each row, (B,) int64, of packed rows falling; None is T for all.
        resets: marks before which a row's sequence is cut, (T, B) bool, of packed rows (rows,);
            None is no mark.
        cell: a key of `ops.GATES`.
        reverse: N flags, 1 where the recurrence walks backward in time.
        backend: a name that `backends.choose` returned for this call.

    Returns:
        y (T, B, N, P) or (rows, N, P), hn (N, B, P), cn (N, B, H) or None.
    """
    tracing, products = torch.compiler.is_compiling(), products_of(x)
    if tracing and transformed():
        # Inside a traced graph, transforms see the op alone and know no rule for it.
        backend = "reference"
    if operation_by_operation(backend, x):
        given = (x, h0, c0, weights, lengths, resets)
        return recomputed.layer(backend, *given, cell=cell, reverse=reverse, products=products)
    if tracing or torch._C._is_tracing():
        refuse_onnx()
    pair = PAIRS[backend]
    x, h0, c0, lengths, resets, *weights = contiguous(x, h0, c0, lengths, resets, *weights)
    if tracing:
        # Its kernel for autograd keeps a tape wherever it records one.
        y, hn, cn, *_ = pair.forward(
            x, h0, c0, weights, lengths, resets, cell, reverse, False, products
        )
    elif transformed() or records_gradient(x, h0, c0, *weights):
        plan = Plan(pair, cell, reverse, products=products)
        y, hn, cn, *_ = LayerFunction.apply(plan, x, h0, c0, lengths, resets, *weights)
    else:
        # The kernel for autograd costs a Python call too: pass it by.
        with torch._C._AutoDispatchBelowAutograd():
            y, hn, cn, *_ = pair.forward(
                x, h0, c0, weights, lengths, resets, cell, reverse, False, products
            )
    return LayerOutput(y, hn, cn if cell == "lstm" else None)


def takes_packed(backend: str, device: torch.device) -> bool:
    """Whether `layer` takes the rows of packed input as they are."""
    return backend == "native" and device.type == "cpu" and not torch.compiler.is_compiling()


def operation_by_operation(backend: str, x: Tensor) -> bool:
    """Whether PyTorch's operations are called where its op could be, by `ops.RECOMPUTED`."""
    if backend not in RECOMPUTED:
        return False
    if torch.compiler.is_compiling():
        return transformed() or to_foreign_onnx()
    if backend == "reference":
        return True
    # A transform, another tracer or a counter of operators does better with the op.
    followed = transformed() or torch._C._len_torch_dispatch_stack() > 0
    return not (followed or x.is_meta or isinstance(x, FakeTensor))


def contiguous(*tensors: Maybe) -> list[Any]:
    """The tensors as the compiled ops take them."""
    return [None if t is None else t.contiguous() for t in tensors]


def records_gradient(*tensors: Maybe) -> bool:
    """Whether a call that takes these tensors is recorded for a backward pass."""
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)


def transformed() -> bool:
    """Whether a tangent or a torch.func transform could be attached to any tensor now."""
    return forward_ad._current_level >= 0 or torch._C._are_functorch_transforms_active()


class LayerFunction(Function):
    """(plan, x, h0, c0, lengths, resets, *weights) -> (y, hn, cn, tape, saved_y)."""

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
        _, _, cn, *kept = output
        ctx.set_materialize_grads(False)
        # Without a cell state the op returns an empty tensor in its place.
        unmoved = kept if ctx.plan.cell == "lstm" else (cn, *kept)
        ctx.mark_non_differentiable(*unmoved)
        ctx.save_for_backward(*args[:5], *kept, *args[5:])
        if transformed():
            ctx.save_for_forward(*args)

    @staticmethod
    def backward(ctx: Any, dy: Maybe, dhn: Maybe, dcn: Maybe, *_: Maybe) -> Many:
        saved, wanted = ctx.saved_tensors, ctx.needs_input_grad
        if dy is None and dhn is None and dcn is None:
            return (None,) * len(wanted)
        needs = Needs(wanted[1], wanted[2] or wanted[3], any(wanted[6:]))
        was = ctx.plan
        plan = Plan(was.pair, was.cell, was.reverse, needs, products=was.products)
        again = torch.is_grad_enabled() or transformed()
        gradients = LayerBackward.apply if again else LayerBackward.forward
        dx, dh0, dc0, *dweights = gradients(plan, dy, dhn, dcn, *saved)
        dx, dh0, dc0 = (None if absent(grad) else grad for grad in (dx, dh0, dc0))
        return None, dx, dh0, dc0, None, None, *(dweights or (None,) * len(wanted[6:]))

    @staticmethod
    def jvp(ctx: Any, _: None, *tangents: Maybe) -> Many:
        x, h0, c0, lengths, resets, *weights = ctx.saved_tensors
        function = _forward_map(ctx.plan, lengths, resets)
        moved = jvp(function, (x, h0, c0, *weights), (*tangents[:3], *tangents[5:]))
        return *moved, None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], plan: Plan, *args: Any) -> tuple[Any, Any]:
        def apply(*args: Maybe) -> tuple[Tensor, ...]:
            return LayerFunction.apply(plan, *args)

        dims = in_dims[1:]
        if _packed(args[0], dims[0]) or any(d is not None for d in dims[len(_FORWARD_AXES) :]):
            return one_by_one(apply, info.batch_size, dims, args)
        return side_by_side(apply, info.batch_size, dims, args, _FORWARD_AXES)


class LayerBackward(Function):
    """(plan, dy, dhn, dcn, x, h0, c0, lengths, resets, tape, y, *weights) -> gradients.

    They are dx, dh0, dc0 and, if needed, one for each weight. Its own derivatives take y and tape
    for what they are, functions of the other arguments.
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
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.plan, *args = inputs
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*filter(absent, output))
        ctx.save_for_backward(*args)
        ctx.save_for_forward(*args)

    @staticmethod
    def backward(ctx: Any, *cotangents: Maybe) -> Many:
        dy, dhn, dcn, x, h0, c0, lengths, resets, _, _, *weights = ctx.saved_tensors
        function = _backward_map(ctx.plan, lengths, resets)
        grads = vjp(function, (dy, dhn, dcn, x, h0, c0, *weights), cotangents)
        return None, *grads[:6], None, None, None, None, *grads[6:]

    @staticmethod
    def jvp(ctx: Any, _: None, *tangents: Maybe) -> Many:
        dy, dhn, dcn, x, h0, c0, lengths, resets, _, _, *weights = ctx.saved_tensors
        function = _backward_map(ctx.plan, lengths, resets)
        primals = (dy, dhn, dcn, x, h0, c0, *weights)
        return jvp(function, primals, (*tangents[:6], *tangents[10:]))

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], plan: Plan, *args: Maybe) -> tuple[Any, Any]:
        return _mapped_backward(plan, info.batch_size, in_dims[1:], *args)


def _mapped_backward(plan: Plan, size: int, dims: Sequence[Any], *args: Any) -> Mapped:
    def apply(*args: Maybe) -> tuple[Tensor, ...]:
        return LayerBackward.apply(plan, *args)

    shared = all(dim is None for dim in dims[len(_BACKWARD_AXES) :])
    if shared and not _packed(args[3], dims[3]) and not plan.needs.dweights:
        return side_by_side(apply, size, dims, args, _BACKWARD_AXES)
    return one_by_one(apply, size, dims, args)


def _packed(x: Tensor, mapped: int | None) -> bool:
    """Whether x holds packed rows, (rows, I), without an axis for the batch."""
    return x.dim() - (mapped is not None) == 2


def _forward_map(plan: Plan, lengths: Maybe, resets: Maybe) -> Map:
    """The reference as a map (x, h0, c0, *weights) -> (y, hn, cn)."""

    def forward(x: Tensor, h0: Maybe, c0: Maybe, *weights: Tensor) -> Many:
        run = partial(reference.layer, cell=plan.cell, reverse=plan.reverse, products=plan.products)
        if x.dim() == 3 or lengths is None:
            return tuple(run(x, h0, c0, weights, lengths, resets))
        packing = Packing.of(lengths)
        marks = None if resets is None else packing.pad(resets)
        y, *states = run(packing.pad(x), h0, c0, weights, lengths, marks)
        return packing.pack(y), *states

    return forward


def _backward_map(plan: Plan, lengths: Maybe, resets: Maybe) -> Map:
    """That map's gradient: (dy, dhn, dcn, x, h0, c0, *weights) -> (dx, dh0, dc0, *dweights)."""
    forward = _forward_map(plan, lengths, resets)
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


def _owned(*tensors: Maybe) -> list[Maybe]:
    """The tensors, to be saved, in a graph that is being compiled with copies in place of views.

    When it runs, it will take no notice of writes to a tensor of which it has saved a view.
    """
    return [copy(t) if isinstance(t, FunctionalTensor) and t._is_view() else t for t in tensors]


def _register(library: torch.library.Library, pair: OpPair) -> None:
    """Lets graphs that hold the ops themselves differentiate them by the same Functions."""

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
