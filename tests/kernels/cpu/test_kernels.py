# SPDX-License-Identifier: MIT
"""The compiled kernels against the float64 truth: outputs and every gradient, by one tolerance."""

import os
import subprocess
import sys

import pytest
import torch
from cases import (
    CELLS,
    DTYPES,
    INSTRUCTION_SETS,
    Case,
    judge,
    judge_outputs,
    make,
    need,
    options,
    run,
    run_prepacked,
)

from fused_rnn import extensions
from fused_rnn.ops import PAIRS
from fused_rnn.testing import assert_within_budget

LONG = [
    Case("lstm", 4096, 2, 8, 16, dtype, reverse=(0, 1), lengths=True, resets=True)
    for dtype in DTYPES
] + [
    *(Case(cell, 4096, 2, 8, 16, dtype) for cell in CELLS for dtype in ("fp32", "bf16")),
    Case("gru", 4096, 2, 8, 65, "fp32"),
    Case("lstm", 4096, 1, 8, 33, "fp16", projection=20),
]


@pytest.fixture(autouse=True)
def available() -> None:
    need("native")


@pytest.mark.parametrize(
    "case", [case for c in CELLS for d in DTYPES for case in options(c, d)], ids=str
)
def test_every_option(case: Case) -> None:
    judge(case, run(case, make(case), "native"), "native")


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_thousands_of_steps(dtype: str) -> None:
    case = Case("gru", 4096, 2, 3, 5, dtype)
    judge(case, run(case, make(case), "native"), "native")


@pytest.mark.long
@pytest.mark.parametrize("case", LONG, ids=str)
def test_long_sequences(case: Case) -> None:
    judge(case, run(case, make(case), "native"), "native")


@pytest.mark.parametrize(
    "case",
    [
        Case(cell, 5, 40, 70, 96, dtype, lengths=True)
        for cell in CELLS
        for dtype in ("fp32", "bf16")
    ],
    ids=str,
)
def test_several_tiles_in_every_direction(case: Case) -> None:
    judge(case, run(case, make(case), "native"), "native")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cell", CELLS)
def test_a_step_of_many_rows(cell: str, dtype: str) -> None:
    # From 256 rows on a call of one or two steps packs its weights too.
    for case in (Case(cell, 1, 255, 9, 18, dtype), Case(cell, 2, 128, 9, 18, dtype)):
        judge(case, run(case, make(case), "native"), "native")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS, indirect=True)
def test_every_instruction_set(instruction_set: str, cell: str, dtype: str) -> None:
    for case in (
        Case(cell, 9, 7, 19, 37, dtype, reverse=(0, 1), lengths=True, resets=True),
        Case(cell, 9, 1, 6, 65, dtype, bias=False, states=False),
    ):
        judge(case, run(case, make(case), "native"), f"native {instruction_set}")


@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS, indirect=True)
def test_what_is_no_number_passes_the_slope_of_relu(instruction_set: str) -> None:
    case = Case("rnn_relu", 2, 2, 5, 9, "fp32")
    inputs = make(case)
    inputs.x[1, 0, 2] = float("nan")
    found, truth = run(case, inputs, "native"), run(case, inputs, "reference")
    assert found["y"][1, 0].isnan().all()
    # torch.relu lets the gradient through where its input is no number.
    assert truth["dx"][1, 0].all()
    for name in ("dx", "dh0"):
        assert_within_budget(found[name], truth[name].double(), truth[name], name=name)


def test_an_unknown_instruction_set_is_refused() -> None:
    with pytest.raises(ValueError, match="mmx"):
        extensions.set_instruction_set("mmx")


def test_nothing_is_read_before_it_is_written() -> None:
    # The C library then fills what it hands out with 0x7F: 3e38 in float32, NaN in float16.
    result = subprocess.run(
        [sys.executable, __file__],
        env=os.environ | {"MALLOC_PERTURB_": "128", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr


def judge_in_filled_memory() -> None:
    """What the test above runs in a process of its own."""
    if not (torch.empty(1000) > 3e38).all():
        raise RuntimeError("the C library does not fill memory: MALLOC_PERTURB_ has no effect")
    for cell in CELLS:
        for dtype in DTYPES:
            for case in (
                Case(cell, 9, 5, 19, 37, dtype, reverse=(0, 1), lengths=True, resets=True),
                Case(cell, 3, 2, 6, 17, dtype, states=False, bias=False),
                Case(cell, 1, 3, 16, 32, dtype),
            ):
                judge(case, run(case, make(case), "native"), "native, in filled memory")
                judge_outputs(case, run_prepacked(case), "prepacked, in filled memory")


@pytest.mark.parametrize("cell", CELLS)
def test_backward_leaves_the_tape_alone(cell: str) -> None:
    case = Case(cell, dtype="fp32", reverse=(0, 1), lengths=True, resets=True)
    inputs = make(case)
    arguments = (*inputs[:6], case.cell, list(case.reverse))
    outputs = PAIRS["native"].forward(*arguments, True)
    cotangents = (*inputs.cotangents, None)[:3]
    given = [*outputs, *inputs[:3], *inputs.weights, *cotangents]
    before = [None if t is None else t.clone() for t in given]
    PAIRS["native"].backward(
        *(*cotangents, *arguments[:6], outputs[0], outputs[3], *arguments[6:], True, True, True)
    )
    for old, new in zip(before, given, strict=True):
        # A tape's rows past a row's end may hold anything, NaN too.
        assert old is None or torch.equal(old.nan_to_num(), new.nan_to_num())


@pytest.mark.parametrize("cell", CELLS)
def test_only_what_is_asked_for(cell: str) -> None:
    case = Case(cell, dtype="fp32", states=False)
    inputs = make(case)
    arguments = (*inputs[:6], case.cell, list(case.reverse))
    y, hn, cn, tape, _ = PAIRS["native"].forward(*arguments, True)
    assert PAIRS["native"].forward(*arguments, False)[3].shape == (0,)
    assert (cn.shape == (0,)) == (cell != "lstm")
    cotangents = (*inputs.cotangents, None)[:3]
    full = PAIRS["native"].backward(
        *cotangents, *arguments[:6], y, tape, *arguments[6:], True, True, True
    )
    assert full[1].shape == hn.shape
    for wanted in range(8):
        needs = [bool(wanted >> bit & 1) for bit in range(3)]
        dx, dh0, dc0, dweights = PAIRS["native"].backward(
            *cotangents, *arguments[:6], y, tape, *arguments[6:], *needs
        )
        state = (dh0, dc0) if needs[1] else (dh0[:0], dc0[:0])
        expected = (full[0], *full[1:3]) if needs[1] else (full[0], *state)
        for need_it, grad, truth in zip(
            (needs[0], needs[1], needs[1]), (dx, dh0, dc0), expected, strict=True
        ):
            assert torch.equal(grad, truth) if need_it else grad.shape == (0,)
        assert len(dweights) == (len(full[3]) if needs[2] else 0)
        assert all(torch.equal(a, b) for a, b in zip(dweights, full[3], strict=False))


if __name__ == "__main__":
    judge_in_filled_memory()
