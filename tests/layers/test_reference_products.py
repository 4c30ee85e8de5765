# SPDX-License-Identifier: MIT
"""The reference's linear maps of fewer products: what they are of, and their derivatives."""

from collections.abc import Iterator

import pytest
import torch
from cases import reset_precision
from torch import Tensor
from torch.func import jvp, vjp

from fused_rnn.backends.reference.products import linear
from fused_rnn.testing import assert_within_budget


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    yield
    reset_precision()


def factors() -> tuple[Tensor, Tensor, Tensor]:
    return torch.randn(7, 3, 40), torch.randn(9, 40), torch.randn(7, 3, 9)


def halves(x: Tensor) -> tuple[Tensor, Tensor]:
    """The nearest bfloat16 and that of the rest, in float64."""
    hi = x.to(torch.bfloat16)
    return hi.double(), (x - hi.float()).to(torch.bfloat16).double()


@pytest.mark.parametrize("products", [3, 1])
def test_what_a_product_is_of(products: int) -> None:
    x, w, _ = factors()
    (x_hi, x_mid), (w_hi, w_mid) = halves(x), halves(w)
    truth = x_hi @ w_hi.t()
    if products == 3:
        truth += x_hi @ w_mid.t() + x_mid @ w_hi.t()
    found = linear(x, w, None, products)
    assert_within_budget(found, truth, truth.float())


@pytest.mark.parametrize("precision", [None, "high", "medium"])
@pytest.mark.parametrize("products", [6, 3, 1])
def test_its_derivatives_are_such_products(products: int, precision: str | None) -> None:
    if precision is not None:
        torch.set_float32_matmul_precision(precision)
    x, w, dy = factors()
    y, pull = vjp(lambda x, w: linear(x, w, None, products), x, w)
    dx, dw = pull(dy)
    if products != 6:
        assert torch.equal(dx, linear(dy, w.t(), None, products))
        rows = dy.flatten(0, 1), x.flatten(0, 1)
        assert torch.equal(dw, linear(rows[0].t(), rows[1].t(), None, products))
    # Bilinear: the tangent along both factors is twice the product.
    _, moved = jvp(lambda x, w: linear(x, w, None, products), (x, w), (x, w))
    assert torch.equal(moved, 2 * y)


@pytest.mark.parametrize("products", [6, 3, 1])
def test_no_numbers_stand_where_float32_has_them(products: int) -> None:
    torch.set_float32_matmul_precision("medium")
    x, w, _ = factors()
    w = w.to(torch.bfloat16).float()
    x[0, 0, 3], x[1, 1, 4], x[2, 2, 5], x[3, 0, 6] = torch.inf, -torch.inf, torch.nan, 3.39e38
    w[:, 6] = 2.0**-10
    w[5, 7] = torch.nan
    found, truth = linear(x, w, None, products), x.double() @ w.double().t()
    assert torch.equal(found.isnan(), truth.isnan())
    assert torch.equal(found.isinf(), truth.isinf())
