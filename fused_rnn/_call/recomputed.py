# SPDX-License-Identifier: MIT
"""The ops of the backends that are made of PyTorch's operations.

The ops keep no tape: their backward pass runs the layer again, under PyTorch's own autograd. They
stand in graphs and under transforms, which cannot look into PyTorch's layers, or would unroll them.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch._C import DispatchKey

from ..backends.choice import BACKENDS
from ..backends.reference import varied_layer
from ..ops import PAIRS, RECOMPUTED, VARIED, CellInputs, CellOptions, LayerOutput, layout

# The last is what tells writes to a view.
_AUTOGRAD = (
    DispatchKey.AutogradFunctionality,
    DispatchKey.AutogradOther,
    DispatchKey.AutogradNestedTensor,
    DispatchKey.ADInplaceOrView,
)


def _computed(backend: str, *given: Any, **options: Any) -> LayerOutput:
    run = BACKENDS[backend].run
    if run is None:
        raise ValueError(f"backend: expected one made of PyTorch's operations, got {backend!r}")
    return run(*given, **options)


def _forward(backend: str, *args: Any) -> tuple[Tensor, ...]:
    *given, cell, reverse, _, products = (*args, 6)[:10]
    x = args[0]
    with torch._C._DisableAutocast():
        y, hn, cn = _computed(backend, *given, cell=cell, reverse=reverse, products=products)
    cn = x.new_empty(0) if cn is None else cn.contiguous()
    return y.contiguous(), hn.contiguous(), cn, x.new_empty(0), x.new_empty(0)


def _backward(backend: str, *args: Any) -> tuple[Any, ...]:
    dy, dhn, dcn, x, h0, c0, weights, lengths, resets, _, _, cell, reverse, *rest = args
    need_dx, need_dstate, need_dweights, products = (*rest, 6)[:4]
    states = [h0, c0]
    if need_dstate:
        sizes, leading = layout(weights, cell), (len(reverse), x.shape[1])
        states[0] = x.new_zeros(*leading, sizes.output) if h0 is None else h0
        if cell == "lstm" and c0 is None:
            states[1] = x.new_zeros(*leading, sizes.hidden)
    with _recording(), torch._C._DisableAutocast():
        x = _leaf(x, need_dx)
        h0, c0 = (None if state is None else _leaf(state, need_dstate) for state in states)
        weights = [_leaf(weight, need_dweights) for weight in weights]
        given = (x, h0, c0, weights, lengths, resets)
        outputs = _computed(backend, *given, cell=cell, reverse=reverse, products=products)
        wanted = [t for t in (x, h0, c0, *weights) if t is not None and t.requires_grad]
        grads = _gradients(outputs, (dy, dhn, dcn), wanted)
    found = {id(t): grad.contiguous() for t, grad in zip(wanted, grads, strict=True)}
    none = (x.new_empty(0) for _ in range(3))
    dx, dh0, dc0 = (found.get(id(t), empty) for t, empty in zip((x, h0, c0), none, strict=True))
    return dx, dh0, dc0, [found[id(weight)] for weight in weights if need_dweights]


def _varied_forward(*args: Any) -> tuple[Tensor, ...]:
    count = len(CellInputs._fields)
    given, options = CellInputs(*args[:count]), CellOptions(*args[count:-1])
    with torch._C._DisableAutocast():
        found = varied_layer(options, given)
    none = [given.x.new_empty(0) for _ in range(2)]
    return *(given.x.new_empty(0) if t is None else t.contiguous() for t in found), *none


def _varied_backward(*args: Any) -> tuple[Any, ...]:
    count = 4 + len(CellInputs._fields)
    cotangents, tensors, words = args[:4], args[4:count], args[count + 2 :]
    options = CellOptions(*words)
    given = CellInputs(*tensors).with_states(options.cell)
    x = given.x
    with _recording(), torch._C._DisableAutocast():
        moving = [None if t is None else _leaf(t, True) for t in given.moving]
        outputs = varied_layer(options, CellInputs(*moving, *given.fixed))
        present = [t for t in moving if t is not None]
        grads = iter(_gradients(outputs, cotangents, present))
    found = [x.new_empty(0) if t is None else next(grads).contiguous() for t in moving]
    return found[0], x.new_empty(0), x.new_empty(0), found[1], found[2], found[3:]


def _leaf(tensor: Tensor, needed: bool) -> Tensor:
    return tensor.detach().requires_grad_(needed)


def _gradients(
    outputs: Sequence[Tensor | None], cotangents: Sequence[Tensor | None], wanted: list[Tensor]
) -> Sequence[Tensor]:
    pairs = [(o, c) for o, c in zip(outputs, cotangents, strict=True) if c is not None]
    if not (pairs and wanted):
        return [torch.zeros_like(t) for t in wanted]
    some, given = zip(*pairs, strict=True)
    # A last state need not depend on all: that of one step of an LSTM knows no projection.
    return torch.autograd.grad(some, wanted, given, allow_unused=True, materialize_grads=True)


@contextmanager
def _recording() -> Iterator[None]:
    """A context with autograd, which the dispatcher and the modes leave behind in a kernel."""
    excluded = torch._C._dispatch_tls_local_exclude_set()
    for key in _AUTOGRAD:
        excluded = excluded.remove(key)
    included = torch._C._dispatch_tls_local_include_set()
    with torch._C._ForceDispatchKeyGuard(included, excluded), torch.enable_grad():
        yield


_LIBRARY = torch.library.Library("fused_rnn", "IMPL")
for _name in RECOMPUTED:
    # On any device.
    _LIBRARY.impl(PAIRS[_name].forward, partial(_forward, _name), "CompositeExplicitAutograd")
    _LIBRARY.impl(PAIRS[_name].backward, partial(_backward, _name), "CompositeExplicitAutograd")
_LIBRARY.impl(VARIED["reference"].forward, _varied_forward, "CompositeExplicitAutograd")
_LIBRARY.impl(VARIED["reference"].backward, _varied_backward, "CompositeExplicitAutograd")
