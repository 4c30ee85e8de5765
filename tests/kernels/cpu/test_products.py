# SPDX-License-Identifier: MIT
"""Products over all steps: linear layers on weights packed at use, sums of outer products."""

from collections.abc import Callable

import pytest
import torch
from cases import INSTRUCTION_SETS, need
from torch import Tensor
from torch.nn import functional as F

from fused_rnn import ops
from fused_rnn._call.products import linear
from fused_rnn.testing import assert_within_budget


@pytest.fixture(autouse=True)
def available(own_threads: None) -> None:
    need("native")


def judge(own: Callable[..., Tensor], peer: Callable[..., Tensor], *given: Tensor | None) -> None:
    """Holds an op to PyTorch's, in both types that it serves, on teams of one to three threads."""
    for dtype in (torch.float32, torch.float64):
        inputs = [None if t is None else t.to(dtype) for t in given]
        truth = peer(*(None if t is None else t.double() for t in inputs))
        found = []
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            found.append(own(*inputs))
            assert_within_budget(found[-1], truth, peer(*inputs))
        assert all(torch.equal(one, found[0]) for one in found)


@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS, indirect=True)
@pytest.mark.parametrize(
    ("rows", "inputs", "outputs"), [(1, 1, 1), (5, 70, 33), (300, 64, 128), (777, 31, 257)]
)
def test_each_instruction_set(instruction_set: str, rows: int, inputs: int, outputs: int) -> None:
    torch.manual_seed(0)
    x, w, b = torch.randn(rows, inputs), torch.randn(outputs, inputs), torch.randn(outputs)
    judge(lambda x, w, b: ops.linear(x, w, b, False), F.linear, x, w, b)
    judge(lambda x, w: ops.linear(x, w, None, False), F.linear, x, w)
    dy = torch.randn(rows, outputs)
    judge(lambda dy, w: ops.linear(dy, w, None, True), torch.matmul, dy, w)
    a, b = torch.randn(rows, 3, outputs), torch.randn(rows, 3, inputs)
    judge(ops.outer, lambda a, b: a.permute(1, 2, 0) @ b.transpose(0, 1), a, b)


def test_a_row_does_not_depend_on_others() -> None:
    x, w = torch.randn(40, 50), torch.randn(60, 50)
    whole = ops.linear(x, w, None, False)
    for rows in (1, 7, 23):
        assert torch.equal(ops.linear(x[:rows].contiguous(), w, None, False), whole[:rows])


def test_derivatives() -> None:
    x, w, b = (torch.randn(*s, dtype=torch.float64) for s in ((2, 17, 5), (7, 5), (7,)))
    inputs = [t.requires_grad_() for t in (x, w, b)]

    def call(*given: Tensor) -> Tensor:
        return linear(*given, backend="native")

    assert torch.autograd.gradcheck(call, inputs, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(call, inputs, check_batched_grad=True)


def test_no_rows() -> None:
    none = torch.randn(0, 2, 5)
    assert torch.equal(ops.outer(none, none), torch.zeros(2, 5, 5))
    assert ops.linear(none[:, 0], torch.randn(6, 5), None, False).shape == (0, 6)


@pytest.mark.parametrize("transposed", [False, True])
def test_the_ops_are_registered_well(transposed: bool) -> None:
    x, w = torch.randn(4, 5), torch.randn(5, 5)
    torch.library.opcheck(ops.linear, (x, w, None, transposed))
    torch.library.opcheck(ops.outer, (x[:, None], x[:, None]))


def test_only_what_gradients_need_is_kept() -> None:
    x, w = torch.randn(40, 5), torch.randn(6, 5, requires_grad=True)
    y = linear(x, w, None, "native")
    with torch.no_grad():
        w.zero_()
    (dw,) = torch.autograd.grad(y.sum(), w)
    assert_within_budget(dw, x.double().sum(0).expand(6, 5), x.sum(0).expand(6, 5))


def test_bad_arguments() -> None:
    x, w = torch.randn(4, 5), torch.randn(6, 5)
    with pytest.raises(RuntimeError, match="x: expected 2 dimensions, got 3"):
        ops.linear(x[None], w, None, False)
    with pytest.raises(RuntimeError, match=r"w: expected shape \(6, 5\), got \(6, 4\)"):
        ops.linear(x, torch.randn(6, 4), None, False)
    with pytest.raises(RuntimeError, match=r"b: expected shape \(6\)"):
        ops.linear(x, w, torch.randn(5), False)
    with pytest.raises(RuntimeError, match="a: expected dtype float32 or float64, got"):
        ops.outer(x[:, None].half(), x[:, None].half())
    with pytest.raises(RuntimeError, match=r"b: expected shape \(4, 1, 5\)"):
        ops.outer(x[:, None], x[:3, None])
