# SPDX-License-Identifier: MIT
"""The CUDA kernels on a CUDA device: right, repeatable, capturable, and never stuck."""

from dataclasses import replace

import pytest
import torch
from cases import CELLS, DTYPES, Case, Inputs, judge, make, options, run
from torch import Tensor

import fused_rnn
from fused_rnn import extensions
from fused_rnn.ops import PAIRS

LARGER = [
    Case("lstm", 9, batch, 40, hidden, "bf16", reverse=reverse, lengths=True, resets=True)
    for batch, hidden, reverse in [
        (3, 129, (0,)),
        (40, 256, (0, 1)),
        (64, 512, (1,)),
        (19, 640, (0, 1)),
        (16, 768, (0,)),
        (100, 768, (0,)),
        (17, 1000, (0,)),
        (33, 1024, (0,)),
        (9, 1500, (0,)),
        (50, 1100, (1,)),
        (3, 1800, (0,)),
    ]
]


@pytest.fixture(autouse=True)
def available() -> None:
    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    reason = extensions.why_cuda_unavailable()
    if reason is not None:
        pytest.skip(reason)


def on_device(case: Case) -> Inputs:
    """The inputs of a case on the current CUDA device."""

    def move(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else tensor.cuda()

    i = make(case)
    return Inputs(
        *(move(tensor) for tensor in i[:3]),
        [weight.cuda() for weight in i.weights],
        *(move(tensor) for tensor in (i.lengths, i.resets)),
        tuple(cotangent.cuda() for cotangent in i.cotangents),
    )


def as_planned(case: Case, passes: tuple[bool, ...] = (False, True)) -> None:
    """Asserts that the kernels planned for a case are those that ran last, and waited for no one
    in vain."""
    torch.cuda.synchronize()
    extensions.check_waits()
    for backward in passes:
        planned = extensions.cuda_plan(
            case.cell,
            DTYPES[case.dtype],
            steps=case.steps,
            batch=case.batch,
            recurrences=len(case.reverse),
            hidden=case.hidden,
            device=extensions.cuda_device(torch.cuda.current_device()),
            backward=backward,
        )
        assert extensions.last_plan(backward) == planned


def ran(case: Case, inputs: Inputs) -> dict[str, Tensor]:
    """What the kernels planned for a case make of it."""
    results = run(case, inputs, "native")
    as_planned(case)
    return results


def found(case: Case) -> dict[str, Tensor]:
    return {name: t.cpu() for name, t in ran(case, on_device(case)).items()}


@pytest.mark.parametrize(
    "case",
    [case for c in CELLS for d in DTYPES for case in options(c, d) if not case.projection],
    ids=str,
)
def test_every_option(case: Case) -> None:
    judge(case, found(case), "native")


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("case", LARGER, ids=str)
def test_larger_layers(cell: str, case: Case) -> None:
    case = replace(case, cell=cell)
    judge(case, found(case), "native")


@pytest.mark.parametrize("dtype", ["bf16", "fp16", "fp32"])
@pytest.mark.parametrize(
    ("cell", "hidden"), [("lstm", 64), ("gru", 64), ("lstm", 256), ("gru_reset_before", 256)]
)
def test_thousands_of_steps(cell: str, hidden: int, dtype: str) -> None:
    case = Case(cell, 2048, 2, 8, hidden, dtype)
    judge(case, found(case), "native")


@pytest.mark.parametrize(
    "case", [Case("lstm", 33, 9, 8, 100, "bf16"), LARGER[1], LARGER[4], LARGER[7]], ids=str
)
def test_the_same_bits_every_time(case: Case) -> None:
    inputs = on_device(case)
    first = ran(case, inputs)
    for _ in range(5):
        for name, tensor in ran(case, inputs).items():
            assert torch.equal(tensor, first[name]), name


@pytest.mark.parametrize("hidden", [64, 256, 1000, 1500])
@pytest.mark.parametrize("kind", [fused_rnn.FusedLSTM, fused_rnn.FusedGRU])
def test_cuda_graphs(kind: type, hidden: int) -> None:
    layer = kind(32, hidden, backend="native", device="cuda", dtype=torch.bfloat16)
    x = torch.randn(12, 5, 32, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    leaves = [x, *layer.parameters()]

    def step() -> list[Tensor]:
        y = layer(x)[0]
        return [y, *torch.autograd.grad(y, leaves, torch.ones_like(y))]

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        step()
    torch.cuda.current_stream().wait_stream(side)
    cell = "lstm" if kind is fused_rnn.FusedLSTM else "gru"
    case = Case(cell, 12, 5, 32, hidden, "bf16")
    as_planned(case)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    as_planned(case)
    for _ in range(3):
        with torch.no_grad():
            x.copy_(torch.randn_like(x))
        graph.replay()
        for mine, expected in zip(captured, step(), strict=True):
            assert torch.equal(mine, expected)


@pytest.mark.parametrize("hidden", [64, 256, 1000])
def test_nan_and_inf_end(hidden: int) -> None:
    case = Case("gru", 40, 9, 8, hidden, "bf16")
    inputs = on_device(case)
    inputs.x[1, 0], inputs.x[2, 1] = torch.nan, torch.inf
    y = ran(case, inputs)["y"]
    assert y[1:, 0].isnan().all()
    assert y[:, 2:].isfinite().all()


@pytest.mark.long
@pytest.mark.parametrize("hidden", [512, 1024])
def test_two_streams_and_many_launches(hidden: int) -> None:
    """Clusters, or grids that take most of the device, on two streams with delays between them."""
    case = Case("lstm", 64, 16, 32, hidden, "bf16")
    inputs = on_device(case)
    arguments = (*inputs[:3], inputs.weights, None, None, "lstm", (0,), True)
    expected = PAIRS["native"].forward(*arguments)[0]
    streams = [torch.cuda.Stream(), torch.cuda.Stream()]
    torch.cuda.synchronize()
    outputs = []
    for number in range(400):
        with torch.cuda.stream(streams[number % 2]):
            torch.cuda._sleep(1000 * (number * 7919 % 50))
            outputs.append(PAIRS["native"].forward(*arguments)[0])
        if number % 50 == 49:
            torch.cuda.synchronize()
            assert all(torch.equal(output, expected) for output in outputs)
            as_planned(case, (False,))
            outputs.clear()
