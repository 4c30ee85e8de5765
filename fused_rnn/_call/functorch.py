# SPDX-License-Identifier: MIT
"""Help for autograd Functions under torch.func: derivatives of maps with absent tensors, vmap."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

import torch
from torch import Tensor
from torch._functorch.utils import unwrap_dead_wrappers
from torch.autograd import forward_ad

Maybe = Tensor | None
Many = tuple[Maybe, ...]
Map = Callable[..., Many]
# Outputs of a vmap rule, and where each has the mapped axis.
Mapped = tuple[tuple[Tensor, ...], tuple[int | None, ...]]

_T = TypeVar("_T")


class Function(torch.autograd.Function):
    """An autograd Function whose call does not begin with torch's study of its signature."""

    @classmethod
    def apply(cls, *args: Any) -> Any:
        """The outputs of `forward`, differentiable."""
        if torch._C._are_functorch_transforms_active():
            return super().apply(*args)
        # As torch's own `apply` goes on, with all arguments given and none by name.
        plain = super(torch.autograd.Function, cls)
        return plain.apply(*unwrap_dead_wrappers(args))  # type: ignore[attr-defined]


class Gradient(Function):
    """The gradient of a Function, by the kernels: (plan, *args) -> gradients, absent ones empty.

    Its own derivatives are those of a map of the reference: they take results that the kernels
    keep, among `args`, for functions of the others.
    """

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.plan, *args = inputs
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*filter(absent, output))
        ctx.save_for_backward(*args)
        ctx.save_for_forward(*args)


def vjp(function: Map, primals: Many, cotangents: Many) -> Many:
    """The gradients of `function` at `primals`, None for an absent primal.

    Outputs without a cotangent, absent ones among them, take no part.
    """
    chosen = [j for j, cotangent in enumerate(cotangents) if cotangent is not None]
    present = [i for i, primal in enumerate(primals) if primal is not None]
    if not chosen:
        return (None,) * len(primals)

    def outputs(*tensors: Tensor) -> Many:
        every = function(*_filled(primals, present, tensors))
        return tuple(every[j] for j in chosen)

    pull = _pull(outputs, [primals[i] for i in present])
    grads = pull(tuple(cotangents[j] for j in chosen))
    return tuple(_filled((None,) * len(primals), present, grads))


def jvp(function: Map, primals: Many, tangents: Many) -> Many:
    """The tangents of the outputs of `function` at `primals`, None for an absent output.

    By two reverse passes: a second forward mode inside eager forward mode is refused. To be called
    from a Function's `jvp`, where PyTorch switches the forward mode off, and with it that of every
    transform around this one.
    """
    with forward_ad._set_fwd_grad_enabled(True):
        primals = tuple(None if p is None else forward_ad.unpack_dual(p).primal for p in primals)
        return _jvp(function, primals, tangents)


def _jvp(function: Map, primals: Many, tangents: Many) -> Many:
    moving = [i for i, tangent in enumerate(tangents) if tangent is not None]
    with torch.no_grad():
        outputs = function(*primals)
    present = [j for j, output in enumerate(outputs) if output is not None]

    def along(*tensors: Tensor) -> Many:
        every = function(*_filled(primals, moving, tensors))
        return tuple(every[j] for j in present)

    def transposed(*cotangents: Tensor) -> Many:
        return _pull(along, [primals[i] for i in moving])(cotangents)

    zeros = [torch.zeros_like(output) for output in outputs if output is not None]
    result = _pull(transposed, zeros)(tuple(tangents[i] for i in moving))
    return tuple(_filled((None,) * len(outputs), present, result))


def _pull(function: Map, primals: Sequence[Maybe]) -> Callable[[Many], Many]:
    return cast(Callable[[Many], Many], torch.func.vjp(function, *primals)[1])


def _filled(base: Sequence[_T], places: Sequence[int], values: Sequence[_T]) -> list[_T]:
    result = list(base)
    for place, value in zip(places, values, strict=True):
        result[place] = value
    return result


def side_by_side(
    apply: Callable[..., Sequence[Tensor]],
    size: int,
    in_dims: Sequence[int | None],
    args: Sequence[Any],
    axes: Sequence[int],
) -> Mapped:
    """vmap by more rows: the mapped axis of `args` merged with the batch axis.

    Args:
        apply: a function of `args` whose non-empty outputs have their batch axis second.
        size: length of the mapped axis.
        in_dims: where each argument has the mapped axis, None where it has none.
        args: the arguments; those past the end of `axes` are passed on unchanged.
        axes: batch axis of each of the leading arguments.
    """
    folded = [
        _fold(arg, dim, axis, size) for arg, dim, axis in zip(args, in_dims, axes, strict=False)
    ]
    outputs = apply(*folded, *args[len(axes) :])
    dims = tuple(None if absent(output) else 1 for output in outputs)
    return tuple(
        output if dim is None else output.unflatten(1, (size, output.shape[1] // size))
        for output, dim in zip(outputs, dims, strict=True)
    ), dims


def _fold(arg: Any, dim: int | None, axis: int, size: int) -> Any:
    if arg is None or absent(arg):
        return arg
    if dim is None:
        shape = arg.shape
        arg = arg.unsqueeze(axis).expand(*shape[:axis], size, *shape[axis:])
    else:
        arg = arg.movedim(dim, axis)
    return arg.flatten(axis, axis + 1).contiguous()


def one_by_one(
    apply: Callable[..., Sequence[Tensor]],
    size: int,
    in_dims: Sequence[int | None],
    args: Sequence[Any],
) -> Mapped:
    """vmap by a loop: one call for each place on the mapped axis."""
    # unbind, not an index a place: the gradient of those is as many buffers of all places.
    places = [
        [arg] * size if dim is None else [part.contiguous() for part in arg.unbind(dim)]
        for arg, dim in zip(args, in_dims, strict=True)
    ]
    calls = [apply(*arguments) for arguments in zip(*places, strict=True)]
    dims = tuple(None if absent(output) else 0 for output in calls[0])
    return tuple(
        column[0] if dim is None else torch.stack(column)
        for column, dim in zip(zip(*calls, strict=True), dims, strict=True)
    ), dims


def absent(output: Tensor) -> bool:
    """Whether an op returned `output` in place of a tensor that does not exist."""
    return output.dim() == 1 and output.shape[0] == 0


def older_vmap_maps(*tensors: Maybe) -> bool:
    """Whether one of the tensors is mapped by the vmap that torch.autograd.grad brings itself."""
    return any(t is not None and torch._C._functorch.is_legacy_batchedtensor(t) for t in tensors)


def older_vmap(rule: Callable[..., Mapped], args: Sequence[Maybe]) -> tuple[Tensor, ...]:
    """The outputs of `rule(size, in_dims, *args)` for the vmap that torch.autograd.grad brings.

    Its `is_grads_batched` maps by tensors that torch.func and its rules know nothing of. At least
    one argument must be such a tensor.
    """
    batched = [older_vmap_maps(t) for t in args]
    level = torch._C._vmapmode_increment_nesting()
    torch._C._vmapmode_decrement_nesting()
    sizes = [0]
    while not any(sizes):
        level -= 1
        # A tensor that is not mapped at this level comes back with a first axis of size 0.
        bare = [
            torch._remove_batch_dim(t, level, 0, 0) if t is not None and b else t
            for t, b in zip(args, batched, strict=True)
        ]
        sizes = [
            t.shape[0] if t is not None and b else 0 for t, b in zip(bare, batched, strict=True)
        ]
    dims = [0 if size else None for size in sizes]
    inner = [b if size else t for b, size, t in zip(bare, sizes, args, strict=True)]
    outputs, out_dims = rule(max(sizes), dims, *inner)
    return tuple(
        out if dim is None else torch._add_batch_dim(out, dim, level)
        for out, dim in zip(outputs, out_dims, strict=True)
    )


def records_gradient(*tensors: Maybe) -> bool:
    """Whether a call that takes these tensors is recorded for a backward pass."""
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)


def transformed() -> bool:
    """Whether a tangent or a torch.func transform could be attached to any tensor now."""
    return forward_ad._current_level >= 0 or torch._C._are_functorch_transforms_active()
