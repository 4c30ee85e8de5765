# SPDX-License-Identifier: MIT
"""Rows of logits, by the CPU kernels and by PyTorch: log-probabilities and the largest in order."""

import math

import pytest
import torch
from cases import INSTRUCTION_SETS, need
from torch import Tensor

from fused_rnn.ops import selection
from fused_rnn.testing import assert_within_budget

by_kernel = pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS, indirect=True)
INFINITY = float("inf")


@by_kernel
@pytest.mark.parametrize("size", [1, 5, 16, 100, 5003])
@pytest.mark.parametrize("sharpness", [1.0, 30.0, 1e4])
def test_log_softmax(instruction_set: str, size: int, sharpness: float) -> None:
    logits = sharpness * torch.randn(37, size)
    logits[3, :-1] = -INFINITY
    found = selection.log_softmax(logits)
    truth, reference = logits.double().log_softmax(-1), logits.log_softmax(-1)
    assert_within_budget(found.values, truth, reference, backend=instruction_set)
    assert torch.equal(found.peaks, logits.amax(-1))
    alone = selection.log_softmax(logits[5:6])
    assert torch.equal(alone.values[0], found.values[5])


@by_kernel
def test_peaks_that_are_no_numbers(instruction_set: str) -> None:
    logits = torch.randn(4, 50)
    logits[0, 33] = math.nan
    logits[1, 49] = INFINITY
    logits[2] = -INFINITY
    expected = torch.tensor([math.nan, INFINITY, -INFINITY, float(logits[3].max())])
    found = selection.log_softmax(logits).peaks
    assert torch.equal(found.nan_to_num(7e7), expected.nan_to_num(7e7))
    assert found[0].isnan()


def rows(size: int) -> list[Tensor]:
    return [
        torch.randn(9, size),
        torch.randn(9, size).sort().values,
        torch.randint(3, (9, size)).float(),
        torch.zeros(9, size).masked_fill(torch.rand(9, size) < 0.5, -INFINITY),
        torch.full((9, size), -INFINITY),
        torch.tensor([0.0, -0.0]).repeat(9, size)[:, :size],
        -torch.rand(9, size) * 1e-40,
    ]


def judge_top(values: Tensor, k: int, found: selection.Top) -> None:
    expected = values.sort(dim=1, descending=True, stable=True)
    assert torch.equal(found.indices, expected.indices[:, :k])
    assert torch.equal(found.values, expected.values[:, :k])


SIZES = pytest.mark.parametrize(
    "size, k", [(1, 1), (5, 5), (17, 2), (40, 2), (64, 1), (1000, 7), (1024, 10)]
)


@SIZES
@by_kernel
def test_top_is_a_stable_sort(instruction_set: str, size: int, k: int) -> None:
    for values in rows(size):
        judge_top(values, k, selection.top(values, k))
    broken = selection.top(torch.full((2, size), math.nan), k)
    assert bool((broken.indices < size).all())


@SIZES
def test_top_by_pytorch(size: int, k: int) -> None:
    for values in rows(size):
        judge_top(values, k, selection._top(values, k))
    broken = selection._top(torch.full((2, size), math.nan), k)
    assert bool((broken.indices < size).all())


@SIZES
@by_kernel
def test_best_is_the_top_of_log_softmax(instruction_set: str, size: int, k: int) -> None:
    some = torch.arange(0, size, 3)
    for logits in rows(size):
        before = logits.clone()
        for excluded in (None, some, torch.arange(size)):
            found = selection.best(logits, k, excluded)
            log_probs, peaks = selection.log_softmax(logits)
            if excluded is not None:
                log_probs[:, excluded] = -INFINITY
            usable = peaks.isfinite()
            judge_top(log_probs[usable], k, selection.Top(*(part[usable] for part in found[:2])))
            assert torch.equal(found.peaks, peaks)
        assert torch.equal(logits, before)


@SIZES
def test_best_by_pytorch(size: int, k: int) -> None:
    logits = torch.randn(9, size)
    others = logits.t().contiguous().t()
    expected = others.log_softmax(-1)
    expected[:, ::3] = -INFINITY
    judge_top(expected, k, selection.Top(*selection.best(others, k, torch.arange(0, size, 3))[:2]))


def test_kernels_and_pytorch_agree() -> None:
    need("native")
    logits = torch.randn(7, 3000)
    for other in (logits.double(), logits.t().contiguous().t()):
        ours, plain = selection.log_softmax(logits), selection.log_softmax(other)
        assert_within_budget(ours.values, plain.values.double(), logits.log_softmax(-1))
        assert torch.equal(ours.peaks, plain.peaks.float())
