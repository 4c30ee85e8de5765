# SPDX-License-Identifier: MIT
"""Layers of cells with options: their input's products by PyTorch, their recurrences in one op.

Derivatives past the first come from the reference, and so does all that runs under a transform.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ..backends import choice
from ..backends.backend import query_of
from ..backends.reference import varied_layer
from ..ops import (
    CELL_STATES,
    VARIED,
    CellInputs,
    CellOptions,
    CellOutput,
    LayerOutput,
    contiguous,
    sum_dtype,
)
from .arguments import Arguments, run_on_grid
from .functorch import (
    Function,
    Many,
    Mapped,
    Maybe,
    absent,
    older_vmap,
    older_vmap_maps,
    one_by_one,
    records_gradient,
    transformed,
    vjp,
)
from .pieces import Passed


class Variant(NamedTuple):
    """The options of a layer's cells; see `FusedLSTM`."""

    layer_norm: bool = False
    layer_norm_eps: float = 1e-5
    zoneout: float = 0.0
    zoneout_cell: float = 0.0
    recurrent_dropout: float = 0.0  # of the state or of the candidate
    recurrent_dropout_mode: str = "variational"
    peephole: bool = False
    activation: str = "tanh"
    gate_activation: str = "sigmoid"

    def names(self, cell: str, bias: bool) -> tuple[str, ...]:
        """The weights of one recurrence, in their order."""
        names = ["w_ih", "w_hh", *(["b_ih", "b_hh"] if bias else [])]
        if self.layer_norm:
            names += ["x_scale", "h_scale", *(["c_scale", "c_bias"] if cell == "lstm" else [])]
        return (*names, *(["peephole"] if self.peephole else []))


class _How(NamedTuple):
    """The settings that all layers of a stack share."""

    variant: Variant
    cell: str
    reverse: tuple[int, ...]
    training: bool
    fused: bool  # by the compiled op
    every_cell: bool  # those of all steps are wanted


def varied_stack(
    given: Arguments,
    weights: Sequence[Tensor],
    variant: Variant,
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
        weights: those of `variant.names`, layer by layer, recurrence by recurrence.
        variant: the options of the cells.
        bias: whether there are biases.
        cell, reverse, dropout, training, backend, kept: as `stack` takes them.
    """
    names = variant.names(cell, bias)
    x, marked = given.x, given.resets is not None
    query = query_of(cell, x, weights[1].shape[1], reverse, resets=marked)._replace(varied=True)
    fused = choice.choose(query, backend) == "native"
    how = _How(variant, cell, reverse, training, fused, kept is not None)
    own = [dict(zip(names, part, strict=True)) for part in _cut(weights, len(names))]
    layers = _cut(own, len(reverse))

    def run(given: Arguments) -> LayerOutput:
        x, h0, c0, lengths, resets, _ = given
        states = [[None] * len(layers) if s is None else s.chunk(len(layers)) for s in (h0, c0)]
        hs, cs = [], []
        for at, (h, c, of_layer) in enumerate(zip(*states, layers, strict=True)):
            if at and dropout and training:
                x = F.dropout(x, dropout)
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
    early = None if b_ih is None or how.variant.layer_norm else b_ih.flatten()
    xg = F.linear(x, w_ih, early).unflatten(-1, (len(parts), -1))
    names = ("w_hh", "b_hh", "x_scale", "h_scale", "c_scale", "c_bias", "peephole")
    named = {name: stacked(name) for name in names}
    masks, options = _drawn(how, xg, weights[0]["w_hh"].shape[1], resets)
    inputs = CellInputs(
        x=xg,
        h0=states[0],
        c0=states[1],
        x_bias=b_ih if how.variant.layer_norm else None,
        **named,
        **masks,
        lengths=lengths,
        resets=resets,
    )
    y, hn, cn, cells = _run_cells(how, options, inputs)
    cn, cells = (None if t is None else t.to(out) for t in (cn, cells))
    flat = None if cells is None else cells.flatten(-2)
    return CellOutput(y.flatten(-2).to(out), hn.to(out), cn, flat)


def _drawn(
    how: _How, xg: Tensor, hidden: int, resets: Maybe
) -> tuple[dict[str, Tensor], CellOptions]:
    """The masks of a call, drawn from torch's generator, and what else the cells are told."""
    variant, lstm = how.variant, how.cell == "lstm"
    options = CellOptions(
        how.cell,
        how.reverse,
        "relu" if how.cell == "rnn_relu" else variant.activation,
        variant.gate_activation,
        variant.zoneout,
        variant.zoneout_cell if lstm else 0.0,
        variant.recurrent_dropout,
        variant.recurrent_dropout_mode == "variational",
        variant.layer_norm_eps,
        how.every_cell and CELL_STATES[how.cell] > 0,
    )
    if not how.training:
        return {}, options
    shape, masks = (*xg.shape[:3], hidden), {}
    for name, probability in (("hold", options.zoneout), ("hold_cell", options.zoneout_cell)):
        if probability:
            masks[name] = _bernoulli(shape, probability, xg)
    if variant.recurrent_dropout:
        if options.drops_state:
            masks["keep"] = _of_sequences(shape, 1 - options.dropout, xg, resets)
        else:
            masks["keep"] = _bernoulli(shape, 1 - options.dropout, xg)
    return masks, options


def _bernoulli(shape: Sequence[int], probability: float, like: Tensor) -> Tensor:
    """Marks that are set with a probability, which is rounded to a multiple of 2^-16.

    Of 16 random bits each: on CPUs PyTorch's own marks take as long as a step's gates.
    """
    count, steps, bound = math.prod(shape), 1 << 16, 1 << 63
    words = torch.randint(-bound, bound - 1, ((count + 3) // 4,), device=like.device)
    bits = words.view(torch.int16)[:count].view(shape)
    below = round(probability * steps) - steps // 2
    # No 16 bits are as large as the last limit.
    return bits < below if below < steps // 2 else torch.ones_like(bits, dtype=torch.bool)


def _of_sequences(shape: Sequence[int], probability: float, like: Tensor, resets: Maybe) -> Tensor:
    """A mask (T, B, N, H) that is the same at all steps between two marks."""
    steps, *one = shape
    if resets is None:
        return _bernoulli((1, *one), probability, like).expand(*shape)
    # One for each number of marks that a step may have at or before it.
    drawn = _bernoulli((steps + 1, *one), probability, like)
    return drawn.gather(0, resets.cumsum(0)[..., None, None].expand(*shape))


def _run_cells(how: _How, options: CellOptions, given: CellInputs) -> CellOutput:
    """The results of one layer's recurrences."""
    if transformed() or not how.fused:
        return varied_layer(options, given)
    inputs = CellInputs(*contiguous(*given))
    if torch.compiler.is_compiling():
        # Its kernel for autograd keeps a tape wherever it records one.
        y, hn, cn, cells, *_ = VARIED.forward(*inputs, *options, False)
    elif records_gradient(*inputs.moving):
        y, hn, cn, cells, *_ = VariedFunction.apply(options, *inputs)
    else:
        with torch._C._AutoDispatchBelowAutograd():
            y, hn, cn, cells, *_ = VARIED.forward(*inputs, *options, False)
    last = cn if CELL_STATES[options.cell] else None
    return CellOutput(y, hn, last, cells if options.every_cell else None)


# Not a NamedTuple: torch.func would take it apart as a tree of arguments.
@dataclass(slots=True)
class _Plan:
    """The settings of a backward pass: the cells', and which gradients are wanted."""

    options: CellOptions
    wanted: tuple[bool, ...]  # of `CellInputs.moving`


class VariedFunction(Function):
    """A pass over a layer: (options, *CellInputs) -> (y, hn, cn, cells, tape, saved_y)."""

    @staticmethod
    def forward(options: CellOptions, *args: Maybe) -> tuple[Tensor, ...]:
        with torch._C._AutoDispatchBelowAutograd():
            return VARIED.forward(*args, *options, True)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.options, *args = inputs
        _, _, cn, cells, *kept = output
        ctx.set_materialize_grads(False)
        # In place of what there is not the op returns an empty tensor.
        missing = [] if CELL_STATES[ctx.options.cell] else [cn]
        missing += [] if ctx.options.every_cell else [cells]
        ctx.mark_non_differentiable(*missing, *kept)
        ctx.save_for_backward(*args, *kept)

    @staticmethod
    def backward(ctx: Any, dy: Maybe, dhn: Maybe, dcn: Maybe, dcells: Maybe, *_: Maybe) -> Many:
        *given, tape, y = ctx.saved_tensors
        wanted = ctx.needs_input_grad
        if dy is None and dhn is None and dcn is None and dcells is None:
            return (None,) * len(wanted)
        inputs = CellInputs(*given)
        plan = _Plan(ctx.options, wanted[1 : 1 + len(inputs.moving)])
        again = torch.is_grad_enabled() or transformed()
        gradients = VariedBackward.apply if again else VariedBackward.forward
        found = gradients(plan, dy, dhn, dcn, dcells, *inputs, y, tape)
        pairs = zip(found, inputs.moving, plan.wanted, strict=True)
        moving = [grad if asked and t is not None else None for grad, t, asked in pairs]
        return None, *moving, *(None for _ in inputs.fixed)


class VariedBackward(Function):
    """The gradient of a layer: (plan, dy, dhn, dcn, dcells, *CellInputs, y, tape) -> gradients.

    They are those of `CellInputs.moving`, absent ones empty. Its own derivatives take y and tape
    for what they are, functions of the other arguments.
    """

    @staticmethod
    def forward(plan: _Plan, *args: Maybe) -> tuple[Tensor, ...]:
        cotangents, rest = args[:4], args[4:]
        if older_vmap_maps(*cotangents):
            return older_vmap(partial(_one_by_one, plan), args)
        with torch._C._AutoDispatchBelowAutograd():
            dx, dparts, factors, dh0, dc0, sums = VARIED.backward(
                *contiguous(*cotangents), *rest, *plan.options
            )
            dparts = dx if absent(dparts) else dparts
            dw_hh = dx.new_empty(0)
            if plan.wanted[3]:
                # Of each recurrence one product over all steps and rows.
                rows = [t.flatten(0, 1).transpose(0, 1) for t in (dparts, factors)]
                dw_hh = rows[0].transpose(1, 2) @ rows[1]
        return dx, dh0, dc0, dw_hh, *sums

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.plan, *args = inputs
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*filter(absent, output))
        ctx.save_for_backward(*args)

    @staticmethod
    def backward(ctx: Any, *cotangents: Maybe) -> Many:
        *given, _, _ = ctx.saved_tensors
        inputs = CellInputs(*given[4:])
        function = partial(_gradients, ctx.plan.options, inputs)
        found = vjp(function, (*given[:4], *inputs.moving), cotangents)
        return None, *found, *(None for _ in inputs.fixed), None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], plan: _Plan, *args: Maybe) -> Mapped:
        return _one_by_one(plan, info.batch_size, in_dims[1:], *args)


def _one_by_one(plan: _Plan, size: int, dims: Sequence[Any], *args: Any) -> Mapped:
    return one_by_one(lambda *args: VariedBackward.apply(plan, *args), size, dims, args)


def _gradients(options: CellOptions, inputs: CellInputs, *cotangents_and_moving: Any) -> Many:
    """The gradients of `inputs.moving` by the reference; absent ones None."""
    cotangents, (x, h0, c0, *weights) = cotangents_and_moving[:4], cotangents_and_moving[4:]
    leading, hidden = (len(options.reverse), x.shape[1]), inputs.w_hh.shape[2]
    cells = CELL_STATES[options.cell]
    # The op returns the gradients of states, absent ones too.
    h0 = x.new_zeros(*leading, hidden) if h0 is None else h0
    c0 = x.new_zeros(*leading, cells * hidden) if c0 is None and cells else c0

    def outputs(*moving: Maybe) -> Many:
        return tuple(varied_layer(options, CellInputs(*moving, *inputs.fixed)))

    return vjp(outputs, (x, h0, c0, *weights), cotangents)


def _forward(*args: Any) -> Any:
    """The forward op where autograd may record it."""
    count = len(CellInputs._fields)
    inputs, options = CellInputs(*args[:count]), CellOptions(*args[count:-1])
    if not (transformed() or records_gradient(*inputs.moving)):
        with torch._C._AutoDispatchBelowAutograd():
            return VARIED.forward(*args)
    return VariedFunction.apply(options._replace(reverse=tuple(options.reverse)), *inputs)


def _backward(*args: Any) -> Any:
    """The backward op where autograd may record it: raises, as graphs have one derivative."""
    if records_gradient(*(t for t in args if isinstance(t, Tensor))):
        raise RuntimeError("native_varied_backward: expected no gradient of it in a graph")
    with torch._C._AutoDispatchBelowAutograd():
        return VARIED.backward(*args)


_LIBRARY = torch.library.Library("fused_rnn", "IMPL")
_LIBRARY.impl(VARIED.forward, _forward, "Autograd")
_LIBRARY.impl(VARIED.backward, _backward, "Autograd")
