# SPDX-License-Identifier: MIT
"""Products over all steps at once, of cells with options: by our kernels where they serve."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .. import ops
from .functorch import Function, Many, Maybe, older_vmap_maps, records_gradient, transformed

# Of fewer the product takes less time than packing the weights for it.
_WORTH_PACKING = 8


def linear(x: Tensor, w: Tensor, b: Maybe, backend: str) -> Tensor:
    """The map x w^T + b, (..., O).

    Args:
        x: (..., I), float32 or float64.
        w: (O, I).
        b: (O,) or None.
        backend: the one that runs the layer; on the CPU the native one brings the kernels.
    """
    traced = torch.compiler.is_compiling() or torch._C._is_tracing() or transformed()
    plain = traced or backend != "native" or x.device.type != "cpu"
    if plain or x.shape[:-1].numel() < _WORTH_PACKING:
        return F.linear(x, w, b)
    run = LinearFunction.apply if records_gradient(x, w, b) else LinearFunction.forward
    y = run(*ops.contiguous(x.flatten(0, -2), w, b))
    return y.unflatten(0, x.shape[:-1])


class LinearFunction(Function):
    """The map x w^T + b of rows: (x, w, b) -> y."""

    @staticmethod
    def forward(x: Tensor, w: Tensor, b: Maybe) -> Tensor:
        with torch._C._AutoDispatchBelowAutograd():
            return ops.linear(x, w, b, False)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, w, _ = inputs
        by_x, by_w, _ = ctx.needs_input_grad
        ctx.save_for_backward(x if by_w else None, w if by_x else None)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Many:
        x, w = ctx.saved_tensors
        by_x, by_w, by_b = ctx.needs_input_grad
        if torch.is_grad_enabled() or transformed() or older_vmap_maps(dy):
            # Differentiable, or of many cotangents at once.
            dx = dy @ w if by_x else None
            dw = dy.transpose(0, 1) @ x if by_w else None
        else:
            dy = dy.contiguous()
            with torch._C._AutoDispatchBelowAutograd():
                dx = ops.linear(dy, w, None, True) if by_x else None
                dw = ops.outer(dy.unsqueeze(1), x.unsqueeze(1))[0] if by_w else None
        return dx, dw, dy.sum(0) if by_b else None
