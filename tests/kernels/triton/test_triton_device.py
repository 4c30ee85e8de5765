# SPDX-License-Identifier: MIT
"""The Triton kernels on a GPU: truth, repetition, graphs, tapes shared, the first call."""

from dataclasses import replace

import pytest
import torch
from cases import CELLS, DTYPES, Case, Inputs, judge, make, options, run
from torch import Tensor

from bench import first_call
from fused_rnn.backends import choice
from fused_rnn.backends.backend import Query
from fused_rnn.ops import PAIRS

REASON = choice.BACKENDS["triton"].why_not(Query("lstm", torch.bfloat16, "cuda"))
pytestmark = pytest.mark.skipif(REASON is not None, reason=f"triton: {REASON}")
KINDS = [dtype for dtype in DTYPES if dtype != "fp64"]
# One size for each entry of the table of configurations, and sizes that nothing divides.
SIZES = (24, 64, 128, 129, 256, 512, 1000, 1024, 1100)


def on_device(inputs: Inputs) -> Inputs:
    def move(value: object) -> object:
        if isinstance(value, list | tuple):
            return type(value)(move(item) for item in value)
        return value.cuda() if isinstance(value, Tensor) else value

    return Inputs(*(move(value) for value in inputs))


def check(case: Case) -> None:
    found = run(case, on_device(make(case)), "triton")
    judge(case, {name: tensor.cpu() for name, tensor in found.items()}, "triton")


def arguments(case: Case, inputs: Inputs) -> tuple[object, ...]:
    return *inputs[:6], case.cell, list(case.reverse)


@pytest.mark.parametrize(
    "case",
    [
        # One number alone, which may be a difference of large ones, is no norm for any type.
        replace(case, hidden=max(case.hidden, 3))
        for cell in CELLS
        for dtype in KINDS
        for case in options(cell, dtype)
        if not case.projection
    ],
    ids=str,
)
def test_every_option(case: Case) -> None:
    check(case)


@pytest.mark.parametrize("hidden", SIZES)
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("cell", CELLS)
def test_every_configuration(cell: str, dtype: str, hidden: int) -> None:
    check(Case(cell, 20, 37, 48, hidden, dtype, reverse=(0, 1), lengths=True, resets=True))
    check(Case(cell, 1, 5, 48, hidden, dtype))


@pytest.mark.parametrize("hidden", [24, 256])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("cell", CELLS)
def test_thousands_of_steps(cell: str, dtype: str, hidden: int) -> None:
    check(Case(cell, 2048, 3, 8, hidden, dtype, lengths=True))


@pytest.mark.parametrize("hidden", [64, 512])
@pytest.mark.parametrize("cell", CELLS)
def test_the_same_call_gives_the_same_bits(cell: str, hidden: int) -> None:
    case = Case(cell, 50, 33, 16, hidden, "bf16", reverse=(0, 1), lengths=True)
    inputs = on_device(make(case))
    once = run(case, inputs, "triton")
    for _ in range(5):
        again = run(case, inputs, "triton")
        assert all(torch.equal(again[name], tensor) for name, tensor in once.items())


@pytest.mark.parametrize("hidden", [64, 512])
def test_lengths_are_clamped(hidden: int) -> None:
    case = Case("gru", 7, 3, 8, hidden, "bf16", lengths=True)
    inputs = on_device(make(case))
    pair = PAIRS["triton"]
    wild, tame = torch.tensor([-5, 100, 3]).cuda(), torch.tensor([0, 7, 3]).cuda()
    found = pair.forward(*arguments(case, inputs._replace(lengths=wild)), False)
    expected = pair.forward(*arguments(case, inputs._replace(lengths=tame)), False)
    assert all(torch.equal(a, b) for a, b in zip(found[:2], expected[:2], strict=True))


@pytest.mark.parametrize("hidden", [64, 512])
@pytest.mark.parametrize("cell", CELLS)
def test_inside_a_cuda_graph(cell: str, hidden: int) -> None:
    """Counters start from zero at every replay, and inputs are read anew."""
    case = Case(cell, 9, 5, 8, hidden, "bf16")
    inputs = on_device(make(case))
    pair, given = PAIRS["triton"], arguments(case, inputs)
    x = inputs.x.clone()
    pair.forward(x, *given[1:], False)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = pair.forward(x, *given[1:], False)[0]
    for scale in (1.0, -0.5, 2.0):
        x.copy_(inputs.x * scale)
        graph.replay()
        assert torch.equal(captured, pair.forward(x.clone(), *given[1:], False)[0])


@pytest.mark.parametrize("hidden", [64, 512])
@pytest.mark.parametrize("cell", CELLS)
def test_tapes_are_shared_with_the_cuda_kernels(cell: str, hidden: int) -> None:
    """A forward of either backend, and a backward of the other."""
    query = Query(cell, torch.bfloat16, "cuda", (0, 1), True)
    reason = choice.BACKENDS["native"].why_not(query)
    if reason is not None:
        pytest.skip(f"native: {reason}")
    case = Case(cell, 9, 5, 8, hidden, "bf16", reverse=(0, 1), lengths=True, resets=True)
    inputs = on_device(make(case))
    given, cotangents = arguments(case, inputs), (*inputs.cotangents, None)[:3]
    names = ["dx", "dh0", *(["dc0"] if cell == "lstm" else [])]
    for first, second in (("native", "triton"), ("triton", "native")):
        y, hn, cn, tape = PAIRS[first].forward(*given, True)
        dx, dh0, dc0, dweights = PAIRS[second].backward(
            *cotangents, *given[:6], y, tape, *given[6:], True, True, True
        )
        found = {"y": y, "hn": hn} | ({"cn": cn} if cell == "lstm" else {})
        found |= dict(zip(names, (dx, dh0, dc0), strict=False))
        found |= {f"dweights[{index}]": grad for index, grad in enumerate(dweights)}
        judge(case, {name: t.cpu() for name, t in found.items()}, f"{first}, {second}")


@pytest.mark.parametrize("hidden", [128, 1024])
def test_the_first_call_is_soon_ready(hidden: int) -> None:
    assert first_call.measure("lstm", hidden) < first_call.READY
