# SPDX-License-Identifier: MIT
"""The Triton kernels under the interpreter, against the float64 truth by the one tolerance.

Run by test_triton.py in a process with TRITON_INTERPRET=1; pytest does not collect this by itself.
"""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
import triton
import triton.language as tl
from cases import CELLS, DTYPES, Case, Inputs, judge, make, options, run
from special import judge_rows, rows_of_specials, with_specials
from torch import Tensor
from triton_interpreter import LIBRARY, lost_signal, programs_together

from fused_rnn.backends.triton import common, configurations, passes
from fused_rnn.backends.triton.configurations import Device, Grid
from fused_rnn.ops import PAIRS
from fused_rnn.testing import assert_within_budget

assert LIBRARY is not None


@pytest.fixture(autouse=True)
def device(monkeypatch: pytest.MonkeyPatch) -> None:
    """An H100's memory, and no room for programs that wait: they run one after another."""
    monkeypatch.setattr(configurations, "device_of", lambda device: Device(0, 227 * 1024))


@pytest.fixture(autouse=True)
def poisoned_memory() -> Iterator[None]:
    """Every tensor that is allocated without values holds NaN, or the largest integer."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(before)


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


def every_option() -> list[Case]:
    every = [small(c) for cell in CELLS for d in DTYPES if d != "fp64" for c in options(cell, d)]
    return [c for c in every if not c.projection and c.hidden <= (32 if c.dtype == "fp32" else 128)]


def some_options() -> list[Case]:
    """For each cell a few cases, with every option and type in one of them at least."""
    cases = []
    for cell in CELLS:
        ragged = Case(cell, 3, 17, 6, 20, "fp32", reverse=(0, 1), lengths=True, resets=True)
        cases += [
            ragged,
            replace(ragged, dtype="bf16", reverse=(1,), states=False, bias=False, batch=3),
            Case(cell, 2, 1, 33, 80, "fp16"),
        ]
    return cases


@pytest.mark.parametrize("case", some_options(), ids=str)
def test_block_kernels(case: Case) -> None:
    judge(case, run(case, make(case), "triton"), "triton")


def step_cases() -> list[Case]:
    cases = []
    for cell in CELLS:
        ragged = Case(cell, 1, 3, 40, 20, "fp32", reverse=(0, 1), lengths=True, resets=True)
        cases += [
            ragged,
            replace(ragged, dtype="bf16", bias=False, states=False, reverse=(0,), batch=17),
        ]
    return cases


@pytest.mark.parametrize("case", step_cases(), ids=str)
def test_step_kernel(case: Case) -> None:
    judge(case, run(case, make(case), "triton"), "triton")


@pytest.mark.long
@pytest.mark.parametrize("case", every_option(), ids=str)
def test_block_kernels_with_every_option(case: Case) -> None:
    judge(case, run(case, make(case), "triton"), "triton")


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("cell", CELLS)
def test_infinities_do_not_reach_others(cell: str, steps: int) -> None:
    # Fewer units than a block has.
    case = Case(cell, steps, 1, 5, 20, "fp32")
    wide, inputs = with_specials(case, rows := rows_of_specials(case), positive=True)
    truth = run(wide, inputs, "reference")
    judge_rows(case, rows, run(wide, inputs, "triton"), truth)


RESIDENT, STREAMED = Grid(32, 4, 16, 16, True, 4), Grid(16, 2, 16, 16, False, 4)


def grid_cases(cell: str) -> list[Case]:
    """Two slices at least, of 16 units."""
    ragged = Case(cell, 3, 3, 6, 20, "fp32", reverse=(0, 1), lengths=True, resets=True)
    return [
        ragged,
        replace(ragged, dtype="bf16", batch=19, reverse=(1,)),
        replace(ragged, dtype="fp16", states=False, bias=False, reverse=(0,), lengths=False),
        Case(cell, 3, 2, 6, 70, "fp32"),
        Case(cell, 2, 2, 6, 33, "bf16", states=False),
    ]


def grid_run(case: Case, form: Grid, processors: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Judges a case that the grid kernels are made to serve, on a device of some size."""
    monkeypatch.setattr(passes, "choose", lambda *_: form)
    monkeypatch.setattr(configurations, "device_of", lambda device: Device(processors, 0))
    judge(case, run(case, make(case), "triton"), "triton")


@pytest.mark.parametrize("cell", CELLS)
def test_grid_kernels_a_launch_a_stage(cell: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a device too small for all slices at once: every exchange lies between two launches."""
    grid_run(grid_cases(cell)[1], STREAMED, 0, monkeypatch)


@pytest.mark.long
@pytest.mark.parametrize("form", [RESIDENT, STREAMED], ids=["resident", "streamed"])
@pytest.mark.parametrize("case", [case for cell in CELLS for case in grid_cases(cell)], ids=str)
def test_grid_kernels_with_more_options(
    case: Case, form: Grid, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid_run(case, form, 0, monkeypatch)


@pytest.mark.parametrize("cell", CELLS)
def test_grid_kernels_exchange_inside_a_launch(cell: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two slices each of two groups of rows and two recurrences, in one launch a pass."""
    ragged = Case(cell, 2, 17, 6, 20, "fp32", reverse=(0, 1), lengths=True, resets=True)
    with programs_together(monkeypatch) as launched:
        grid_run(ragged, RESIDENT, 8, monkeypatch)
    assert launched == [8, 8]


def test_recurrences_that_do_not_fit_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three processors hold one recurrence of two slices: there are two launches a pass.

    The rows of both blocks are one group's then, which loops over them in each stage.
    """
    case = Case("gru", 2, 17, 6, 20, "bf16", reverse=(0, 1))
    with programs_together(monkeypatch) as launched:
        grid_run(case, STREAMED, 3, monkeypatch)
    assert launched == [2, 2, 2, 2]


def forward_only(case: Case, inputs: Inputs) -> tuple[Tensor, ...]:
    """y, hn, cn and what is kept."""
    return PAIRS["triton"].forward(*inputs[:6], case.cell, list(case.reverse), True)


def backward_only(case: Case, inputs: Inputs, y: Tensor, tape: Tensor) -> tuple[Tensor, ...]:
    """dx, dh0 and dc0."""
    cotangents = (*inputs.cotangents, None)[:3]
    options, needed = (case.cell, list(case.reverse)), (True, True, False)
    return PAIRS["triton"].backward(*cotangents, *inputs[:6], y, tape, *options, *needed)[:3]


@pytest.mark.parametrize("cell", ["rnn_relu", "gru", "gru_reset_before", "lstm"])
def test_a_lost_signal_ends_the_wait(cell: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With NaN for all that depends on it, and an error of the next call; no other call has any."""
    case = Case(cell, 3, 2, 6, 20, "fp32")
    inputs = make(case)
    monkeypatch.setattr(passes, "choose", lambda *_: RESIDENT)
    monkeypatch.setattr(configurations, "device_of", lambda device: Device(8, 0))
    with programs_together(monkeypatch), lost_signal(monkeypatch, 0):
        y, hn, cn, *_ = forward_only(case, inputs)
    # The first step needs nobody, but for the textbook GRU's r * h.
    alone = 0 if cell == "gru_reset_before" else 1
    assert y[:alone].isfinite().all() and y[alone:].isnan().all() and hn.isnan().all()
    assert cell != "lstm" or cn.isnan().all()
    with programs_together(monkeypatch):
        with pytest.raises(RuntimeError, match="ran out.* NaN: grid_forward, T 3, B 2, N 1, H 20"):
            forward_only(case, inputs)
        y, hn, cn, *kept = forward_only(case, inputs)
        with lost_signal(monkeypatch, 0):
            dx, dh0, dc0 = backward_only(case, inputs, y, kept[0])
        dx = dx.flip(0)
        assert dx[:alone].isfinite().all() and dx[alone:].isnan().all() and dh0.isnan().all()
        assert cell != "lstm" or dc0.isnan().all()
        with pytest.raises(RuntimeError, match="ran out.* NaN: grid_backward, T 3, B 2, N 1, H 20"):
            forward_only(case, inputs)
        judge(case, run(case, inputs, "triton"), "triton")
