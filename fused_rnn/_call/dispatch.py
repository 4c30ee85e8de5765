# SPDX-License-Identifier: MIT
"""One layer on the backend that was chosen for it, differentiable.

Eager code and torch.func go through autograd Functions that know vmap, forward mode and their own
derivative. torch.compile refuses a Function with a `jvp`: there the op itself stands in the graph,
and its kernel for autograd calls the same Function (`autograd`).
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch._subclasses import FakeTensor

from ..backends.backend import Backend
from ..backends.choice import BACKENDS
from ..ops import PAIRS, LayerOutput, contiguous
from . import recomputed  # noqa: F401  # brings the kernels of its ops
from .arguments import Arguments
from .autograd import LayerFunction
from .derivatives import Plan
from .exporting import refuse_onnx, to_foreign_onnx
from .functorch import records_gradient, transformed
from .matmul_precision import products_of, traced_products_of


def run_layer(
    given: Arguments,
    weights: Sequence[Tensor],
    *,
    cell: str,
    reverse: tuple[int, ...],
    backend: Backend,
) -> LayerOutput:
    """The outputs and final states of N recurrences over one input.

    Args:
        given: of one layer, states (N, B, .); compact rows only where the backend takes them.
        weights: torch.nn's order, recurrence by recurrence.
        cell: a key of `ops.GATES`.
        reverse: N flags, 1 where the recurrence walks backward in time.
        backend: the one that `choice.choose` returned for this call.

    Returns:
        y (T, B, N, P) or (rows, N, P), hn (N, B, P), cn (N, B, H) or None.
    """
    x, h0, c0, lengths, resets, rows = given
    lengths = lengths if rows is None else rows.lengths
    tracing = torch.compiler.is_compiling()
    products = traced_products_of(x) if tracing else products_of(x)
    if tracing and transformed():
        # Inside a traced graph, transforms see the op alone and know no rule for it.
        backend = BACKENDS["reference"]
    if backend.run is not None and operation_by_operation(backend, x):
        tensors = (x, h0, c0, weights, lengths, resets)
        return backend.run(*tensors, cell=cell, reverse=reverse, products=products)
    if tracing or torch._C._is_tracing():
        refuse_onnx()
    pair = PAIRS[backend.name]
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


def operation_by_operation(backend: Backend, x: Tensor) -> bool:
    """Whether PyTorch's operations are called where the backend's op could be."""
    if backend.run is None:
        return False
    if torch.compiler.is_compiling():
        return transformed() or to_foreign_onnx()
    if backend.name == "reference":
        return True
    # A transform, another tracer or a counter of operators does better with the op.
    followed = transformed() or torch._C._len_torch_dispatch_stack() > 0
    return not (followed or x.is_meta or isinstance(x, FakeTensor))
