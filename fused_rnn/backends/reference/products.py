# SPDX-License-Identifier: MIT
"""Linear maps of float32 as sums of bfloat16 products: 6, 3 or 1 for each product of float32.

A number is the sum of parts, hi + mid + lo: hi is the nearest bfloat16, each further part that of
the rest (Henry, Tang and Heinecke 2019, arXiv 1904.06376). With (i, j) the product of the parts i
of x and j of w, where hi is 0:

(1) 6 products: (2, 0) + (1, 1) + (0, 2) + (1, 0) + (0, 1) + (0, 0), float32 within its rounding
(2) 3 products: (1, 0) + (0, 1) + (0, 0)
(3) 1 product: (0, 0)
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

# How many parts a number has, and which meet besides the leading ones, small products first.
_PARTS = {6: 3, 3: 2, 1: 1}
_LESSER = {6: ((2, 0), (1, 1), (0, 2), (1, 0), (0, 1)), 3: ((1, 0), (0, 1)), 1: ()}
# In place of a number of products: rows of x as integers, w as it is; see `_as_integers`.
INTEGERS = 8
_LARGEST = torch.finfo(torch.bfloat16).max
_setting = torch._C._get_fp32_precision_getter


def linear(x: Tensor, w: Tensor, b: Tensor | None = None, products: int = 6) -> Tensor:
    """The linear map x w^T + b, (..., M); its gradients and tangents are of as many products.

    Args:
        x: rows, (..., K); float32 unless `products` is 6.
        w: weights, (M, K).
        b: bias, (M,), added in the type of x; None is zeros.
        products: for each of float32, 6, 3 or 1. 6 are torch's own, where it has not been told to
            round float32 itself. INTEGERS, without derivatives: exact ones of rows of x that are
            rounded to 8 bits. A graph of torch.compile always takes torch's own, and has exact
            cotangents by 3 and 1.
    """
    if products == INTEGERS:
        return functional.linear(_as_integers(x), w, b)
    if products == 6 and not _torch_rounds(x):
        return functional.linear(x, w, b)
    if torch.compiler.is_compiling():
        # It refuses Functions that have a tangent.
        y = _sum(x, w, products)
    else:
        y = _Product.apply(x, w, products)
    return y if b is None else y + b


def _as_integers(x: Tensor) -> Tensor:
    """Each row as the integers nearest to x * 127 / m times m / 127, m its largest magnitude."""
    largest = x.abs().amax(-1, keepdim=True)
    scale = torch.where(largest > 2.0**-100, largest / 127, 0)
    return torch.where(scale == 0, 0, torch.round(x / torch.where(scale == 0, 1, scale))) * scale


def _torch_rounds(x: Tensor) -> bool:
    """Whether torch's own products on the CPU may be of fewer bits than float32 has."""
    if torch.compiler.is_compiling() or x.dtype != torch.float32 or x.device.type != "cpu":
        return False
    return _setting("mkldnn", "matmul") not in ("none", "ieee")


class _Product(torch.autograd.Function):
    """The product of two matrices: (x, w, products) -> x w^T."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, w: Tensor, products: int) -> Tensor:
        return _sum(x, w, products)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, w, ctx.products = inputs
        ctx.save_for_backward(x, w)
        ctx.save_for_forward(x, w)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        (x, w), dx, dw = ctx.saved_tensors, None, None
        if ctx.needs_input_grad[0]:
            dx = _Product.apply(dy, w.t(), ctx.products)
        if ctx.needs_input_grad[1]:
            rows = dy.flatten(0, -2), x.flatten(0, -2)
            dw = _Product.apply(rows[0].t(), rows[1].t(), ctx.products)
        return dx, dw, None

    @staticmethod
    def jvp(ctx: Any, dx: Tensor, dw: Tensor, _: None) -> Tensor:
        x, w = ctx.saved_tensors
        moved: Tensor = _Product.apply(dx, w, ctx.products)
        return moved + _Product.apply(x, dw, ctx.products)


def _sum(x: Tensor, w: Tensor, products: int) -> Tensor:
    xs, ws = _parts(x, _PARTS[products]), _parts(w, _PARTS[products])
    # The factors are bfloat16 numbers, which torch rounds no further whatever its own setting.
    leading = functional.linear(xs[0], ws[0])
    if products == 1:
        return leading
    # Infinity is all in the leading part: times a rest that is zero it would be no number.
    xs[0], ws[0] = _finite(xs[0]), _finite(ws[0])
    first, *others = (functional.linear(xs[i], ws[j]) for i, j in _LESSER[products])
    return sum(others, first) + leading


def _finite(x: Tensor) -> Tensor:
    return torch.where(x.isfinite(), x, 0)


def _parts(x: Tensor, count: int) -> list[Tensor]:
    """The leading parts of x, the first with the gradient of x itself."""
    rest, parts = x.detach(), []
    for _ in range(count):
        finite = rest.isfinite()
        # What would round to infinity is cut off where a rest can make up for it.
        part = _nearest(rest if count == 1 else rest.clamp(-_LARGEST, _LARGEST))
        parts.append(torch.where(finite, part, rest))
        rest = torch.where(finite, rest - part, 0)
    lost = torch.where(x.detach().isfinite(), parts[0] - x.detach(), 0)
    return [x + lost, *parts[1:]]


def _nearest(x: Tensor) -> Tensor:
    """The bfloat16 nearest to each float32, as a float32."""
    if torch.compiler.is_compiling() and not torch._C._are_functorch_transforms_active():
        # Inductor leaves out casts there and back; PyTorch 2.11 knows no vmap of bits.
        bits = x.view(torch.int32)
        return ((bits + 0x7FFF + ((bits >> 16) & 1)) & -0x10000).view(torch.float32)
    return x.to(torch.bfloat16).to(x.dtype)
