# SPDX-License-Identifier: MIT
"""The Triton kernels under the interpreter, against the float64 truth by the one tolerance.

Run by test_triton.py in a process with TRITON_INTERPRET=1; pytest does not collect this by itself.
"""

from dataclasses import replace

import pytest
import torch
import triton
import triton.language as tl
from cases import CELLS, Case, judge, make, options, run
from triton_interpreter import LIBRARY

from fused_rnn.testing import assert_within_budget
from fused_rnn.triton import common, exchange, layer
from fused_rnn.triton.configurations import Grid

assert LIBRARY is not None


@triton.jit
def pointwise_kernel(p_x, p_y, FUNCTION: tl.constexpr, COUNT: tl.constexpr):  # noqa: ANN001, ANN201
    o = tl.arange(0, COUNT)
    tl.store(p_y + o, FUNCTION(tl.load(p_x + o)))


@pytest.mark.parametrize("name", ["sigmoid", "tanh"])
def test_pointwise_functions(name: str) -> None:
    around = torch.tensor([0.25, -0.25]).double()
    x = torch.cat([torch.linspace(-110, 110, 1001), torch.logspace(-30, 2, 1000), around])
    limits = [float("inf"), float("-inf"), float("nan"), 0.0, -0.0]
    x = torch.cat([x, -x, torch.tensor(limits)]).float()
    x = torch.cat([x, torch.zeros(4096 - len(x))])
    y = torch.empty_like(x)
    pointwise_kernel[(1,)](x, y, getattr(common, name), len(x))
    truth = getattr(torch, name)(x.double())
    assert_within_budget(y, truth, getattr(torch, name)(x), name=name)
    # In proportion too: small values pass through tanh as they are.
    known = truth.isfinite() & (truth.abs() > 1e-30)
    assert ((y.double() - truth).abs() <= 4 * torch.finfo(torch.float32).eps * truth.abs())[
        known
    ].all()


def small(case: Case) -> Case:
    """Fewer steps: an operation of the interpreter takes as long as a layer on the CPU."""
    steps = min(case.steps, 5)
    # One number alone, which may be a difference of large ones, is no norm for any type.
    return replace(case, steps=steps, hidden=max(case.hidden, 3))


def block_cases() -> list[Case]:
    every = [small(c) for cell in CELLS for d in ("fp32", "bf16") for c in options(cell, d)]
    every += [
        Case(cell, 4, 19, 6, 20, "fp16", reverse=(0, 1), lengths=True, resets=True)
        for cell in CELLS
    ]
    return [c for c in every if not c.projection and c.hidden <= (32 if c.dtype == "fp32" else 128)]


@pytest.mark.parametrize("case", block_cases(), ids=str)
def test_block_kernels(case: Case) -> None:
    judge(case, run(case, make(case), "triton"), "triton")


def grid_cases() -> list[Case]:
    """Two slices at least, of 16 units."""
    cases = []
    for cell in CELLS:
        full = Case(cell, 4, 3, 6, 20, "fp32", reverse=(0, 1), lengths=True, resets=True)
        cases += [
            full,
            replace(full, dtype="bf16", batch=19, reverse=(1,)),
            replace(full, dtype="fp16", states=False, bias=False, reverse=(0,), lengths=False),
            Case(cell, 3, 2, 6, 70, "fp32"),
            Case(cell, 1, 2, 6, 33, "bf16", states=False),
        ]
    return cases


@pytest.fixture(params=[True, False], ids=["resident", "streamed"])
def grid(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The grid kernels serve every size, with small tiles."""
    form = Grid(32, 4, 16, 16, True, 4) if request.param else Grid(16, 2, 16, 16, False, 4)
    monkeypatch.setattr(layer, "choose", lambda hidden, dtype: form)


@pytest.mark.usefixtures("grid")
@pytest.mark.parametrize("case", grid_cases(), ids=str)
def test_grid_kernels_a_launch_a_stage(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a device too small for all slices at once: every exchange lies between two launches."""
    monkeypatch.setattr(exchange, "processors", lambda device: 0)
    judge(case, run(case, make(case), "triton"), "triton")
