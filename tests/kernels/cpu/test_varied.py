# SPDX-License-Identifier: MIT
"""The kernels of cells with options: all combinations, sets of instructions, numbers of threads."""

import random
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
import torch
from cases import INSTRUCTION_SETS, need
from torch import Tensor

from fused_rnn import extensions
from fused_rnn._call.varied_autograd import VariedFunction, VariedPlan
from fused_rnn.backends.reference import varied_layer
from fused_rnn.ops import CELL_STATES, GATES, VARIED, CellInputs, CellOptions
from fused_rnn.testing import assert_within_budget

NATIVE = VARIED["native"]


@pytest.fixture(autouse=True)
def available(own_threads: None) -> Iterator[None]:
    need("native")
    yield
    extensions.set_instruction_set("auto")


class Problem(NamedTuple):
    options: CellOptions
    inputs: CellInputs


def make(seed: int, sizes: tuple[int, int, int] | None = None, **fixed: Any) -> Problem:
    """A problem in float64, drawn from a seed but for what is fixed."""
    draw, torch_draw = random.Random(seed), torch.Generator().manual_seed(seed)

    def maybe(name: str, chance: float = 0.5) -> bool:
        return bool(fixed.get(name, draw.random() < chance))

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=torch_draw, dtype=torch.float64)

    cell = fixed.get("cell") or draw.choice(["lstm", "gru", "rnn_tanh", "rnn_relu", "slstm"])
    lstm, normalised = cell == "lstm", maybe("normalised")
    few = [draw.choice([1, 2, 3, 9, 17]), draw.choice([1, 2, 5, 13, 30])]
    steps, batch, hidden = sizes or (*few, draw.choice([5, 8, 17, 33, 64]))
    count, gates = draw.choice([1, 1, 2, 3]), {**GATES, "slstm": 4}[cell]
    wide, narrow = (count, gates * hidden), (count, hidden)
    plain = cell == "slstm"  # which has neither zoneout nor dropout
    rates = [0.0 if plain else draw.choice([0.0, 0.3]) for _ in range(2)]
    c0 = normal(count, batch, CELL_STATES[cell] * hidden)
    if cell == "slstm":
        c0[..., hidden : 2 * hidden] = c0[..., hidden : 2 * hidden].abs() + 0.5  # n
    activation = draw.choice(["tanh", "tanh", "relu"]) if gates > 1 else "tanh"
    options = CellOptions(
        cell,
        tuple(draw.choice([0, 1]) for _ in range(count)),
        "relu" if cell == "rnn_relu" else activation,
        draw.choice(["sigmoid", "hard_sigmoid"]),
        rates[0],
        rates[1] if lstm else 0.0,
        0.0 if plain else draw.choice([0.0, 0.3]),
        gates == 1 or maybe("drops_state"),
        every_cell=bool(CELL_STATES[cell]) and maybe("every_cell"),
    )
    inputs = CellInputs(
        x=normal(steps, batch, *wide),
        h0=normal(count, batch, hidden) if maybe("state") else None,
        c0=c0 if CELL_STATES[cell] and maybe("state") else None,
        w_hh=normal(count, gates * hidden, hidden) / hidden**0.5,
        b_hh=normal(*wide) if maybe("bias") else None,
        x_scale=1 + 0.3 * normal(*wide) if normalised else None,
        x_bias=normal(*wide) if normalised and maybe("bias") else None,
        h_scale=1 + 0.3 * normal(*wide) if normalised else None,
        c_scale=1 + 0.3 * normal(*narrow) if normalised and lstm else None,
        c_bias=normal(*narrow) if normalised and lstm else None,
        peephole=normal(count, 3 * hidden) if lstm and maybe("peephole") else None,
        seeds=torch.randint(-(1 << 63), (1 << 63) - 1, (batch,), generator=torch_draw)
        if maybe("training", 0.7)
        else None,
        lengths=torch.randint(0, steps + 1, (batch,), generator=torch_draw)
        if maybe("ragged")
        else None,
        resets=torch.rand(steps, batch, generator=torch_draw) < 0.3 if maybe("marks") else None,
    )
    clip = fixed.get("clip", draw.choice([None, None, 1.0]))
    return Problem(options._replace(clip=None if plain else clip), inputs)


def results(problem: Problem, dtype: torch.dtype, native: bool) -> list[Tensor]:
    """Outputs and final states, then the gradients of random cotangents."""
    options, given = problem
    leaves = [t if t is None else t.to(dtype).requires_grad_() for t in given.moving]
    inputs = CellInputs(*leaves, *given.fixed)
    if native:
        y, hn, cn, cells, *_ = VariedFunction.apply(VariedPlan(NATIVE, options), *inputs)
    else:
        y, hn, cn, cells = varied_layer(options, inputs)
    outputs = [y, hn, *([cn] if CELL_STATES[options.cell] else [])]
    outputs += [cells] if options.every_cell else []
    draw = torch.Generator().manual_seed(1)
    cotangents = [
        torch.randn(o.shape, generator=draw, dtype=torch.float64).to(dtype) for o in outputs
    ]
    asked = [t for t in leaves if t is not None]
    return [*outputs, *torch.autograd.grad(outputs, asked, cotangents)]


def judge(problem: Problem, dtype: torch.dtype = torch.float64) -> None:
    truth = results(problem, torch.float64, native=False)
    near = truth if dtype == torch.float64 else results(problem, dtype, native=False)
    for index, (actual, expected, other) in enumerate(
        zip(results(problem, dtype, native=True), truth, near, strict=True)
    ):
        assert_within_budget(actual, expected, other, name=f"{index}", case=problem.options)


@pytest.mark.parametrize("block", range(10))
def test_campaign(block: int) -> None:
    for seed in range(30 * block, 30 * block + 30):
        judge(make(seed))


@pytest.mark.long
@pytest.mark.parametrize("block", range(10))
def test_longer_campaign(block: int) -> None:
    for seed in range(1000 + 100 * block, 1000 + 100 * block + 100):
        judge(make(seed))


@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn_tanh", "slstm"])
@pytest.mark.parametrize("name", INSTRUCTION_SETS)
def test_every_instruction_set(name: str, cell: str, normalised: bool) -> None:
    if name not in extensions.instruction_sets():
        pytest.skip(f"this machine does not run {name}")
    extensions.set_instruction_set(name)
    for seed, dtype in ((1, torch.float32), (2, torch.float32), (3, torch.float64)):
        more = {"normalised": normalised, "clip": 1.0 if seed % 2 else None}
        judge(make(seed, (9, 12, 67), cell=cell, state=True, **more), dtype)


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn_relu", "slstm"])
def test_threads_that_share_rows_and_units(cell: str) -> None:
    for seed, sizes in ((4, (5, 1, 250)), (5, (5, 3, 130)), (6, (5, 40, 70))):
        problem = make(seed, sizes, cell=cell)
        for threads in (1, 2, 3, 5):
            torch.set_num_threads(threads)
            judge(problem)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_thousands_of_steps(cell: str) -> None:
    judge(make(7, (3000, 2, 12), cell=cell, normalised=True, marks=False))
    judge(make(8, (3000, 2, 12), cell=cell, normalised=False), torch.float32)


def test_second_derivatives() -> None:
    for seed in range(6):
        options, given = make(seed, (3, 2, 5))
        leaves = [t if t is None else t.requires_grad_() for t in given.moving]
        asked = [t for t in leaves if t is not None]

        def outputs(
            *asked: Tensor, leaves: Any = leaves, given: Any = given, options: Any = options
        ) -> Any:
            own = iter(asked)
            moving = [None if t is None else next(own) for t in leaves]
            y, hn, cn, cells, *_ = VariedFunction.apply(
                VariedPlan(NATIVE, options), *moving, *given.fixed
            )
            found = (y, hn, cn) if CELL_STATES[options.cell] else (y, hn)
            return (*found, cells) if options.every_cell else found

        assert torch.autograd.gradgradcheck(outputs, asked, fast_mode=True)


@pytest.mark.parametrize("backend", ["native", "reference"])
def test_the_ops_are_registered_well(backend: str) -> None:
    for seed in range(4):
        options, given = make(seed, (3, 2, 5))
        # What a tape holds past a row's end is nobody's business, and would be compared.
        given = given._replace(lengths=torch.full((2,), 3))
        moving = [None if t is None else t.requires_grad_() for t in given.moving]
        inputs = (*moving, *given.fixed, *options, True)
        torch.library.opcheck(VARIED[backend].forward, inputs)


def test_the_reference_as_an_op() -> None:
    for seed in range(10):
        options, given = make(seed, (4, 3, 6))
        found = []
        for pair in VARIED.values():
            leaves = [None if t is None else t.clone().requires_grad_() for t in given.moving]
            outputs = VariedFunction.apply(VariedPlan(pair, options), *leaves, *given.fixed)
            shown = [t for t in outputs[:4] if t.requires_grad]
            torch.manual_seed(2)
            cotangents = [torch.randn_like(t) for t in shown]
            asked = [t for t in leaves if t is not None]
            found.append([*shown, *torch.autograd.grad(shown, asked, cotangents)])
        for actual, expected in zip(*found, strict=True):
            assert_within_budget(actual, expected)


@pytest.mark.parametrize("backend", ["native", "reference"])
def test_the_backward_op_has_no_gradient(backend: str) -> None:
    options, given = make(2, (3, 2, 5), cell="gru")
    y, *_, tape, saved = VARIED[backend].forward(*given, *options, True)
    x = given.x.requires_grad_()
    with pytest.raises(RuntimeError, match="varied_backward: expected no gradient of it"):
        VARIED[backend].backward(y, None, None, None, *given._replace(x=x), saved, tape, *options)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(x=torch.zeros(2, 3, 4)), "x: expected 4 dimensions, got 3"),
        (dict(x=torch.zeros(2, 3, 1, 20).bfloat16()), "x: expected dtype float32 or float64"),
        (dict(w_hh=torch.zeros(1, 20, 4)), r"x: expected shape \(2, 3, 1, 16\), got"),
        (dict(h0=torch.zeros(1, 3, 6)), r"h0: expected shape \(1, 3, 5\), got \(1, 3, 6\)"),
        (dict(x_scale=torch.ones(1, 20)), "scales: expected those of all parts"),
        (dict(seeds=torch.zeros(3)), "seeds: expected dtype Long, got Float"),
        (dict(seeds=torch.zeros(2).long()), r"seeds: expected shape \(3\), got \(2\)"),
        (dict(resets=torch.zeros(2, 4, dtype=torch.bool)), r"resets: expected shape \(2, 3\)"),
    ],
    ids=str,
)
def test_bad_tensors(change: dict[str, Tensor], message: str) -> None:
    given = CellInputs(torch.zeros(2, 3, 1, 20), None, None, torch.zeros(1, 20, 5), *[None] * 7)
    with pytest.raises(RuntimeError, match=message), torch.no_grad():
        NATIVE.forward(*given._replace(**change), *CellOptions("lstm", (0,)), False)


def test_bad_words() -> None:
    given = CellInputs(torch.zeros(2, 3, 1, 15), None, None, torch.zeros(1, 15, 5), *[None] * 7)
    for options, message in (
        (CellOptions("gru_reset_before", (0,)), "cell: expected a GRU that resets after"),
        (
            CellOptions("gru", (0,), activation="gelu"),
            "activation: expected tanh, sigmoid, relu or",
        ),
        (CellOptions("gru", ()), "reverse: expected at least one recurrence"),
        (CellOptions("gru", (0,), clip=-1.0), "clip: expected a number above 0, got -1"),
    ):
        with pytest.raises(RuntimeError, match=message), torch.no_grad():
            NATIVE.forward(*given, *options, False)


@pytest.mark.parametrize("option", ["zoneout", "clip"])
def test_an_slstm_has_none_of_these(option: str) -> None:
    given = CellInputs(torch.zeros(2, 3, 1, 20), None, None, torch.zeros(1, 20, 5), *[None] * 7)
    options = CellOptions("slstm", (0,), **{option: 0.5})
    with pytest.raises(RuntimeError, match="slstm: expected no zoneout, dropout or clip"):
        NATIVE.forward(*given, *options, False)


@pytest.mark.parametrize(("cell", "slots"), [("lstm", 5), ("gru", 4), ("rnn_tanh", 1)])
def test_a_clip_takes_one_slot_of_the_tape(cell: str, slots: int) -> None:
    for clip in (None, 1.0):
        options, given = make(3, (2, 3, 5), cell=cell, normalised=False, clip=clip)
        tape = NATIVE.forward(*given, *options, True)[4]
        assert tape.shape[-2] == slots + (clip is not None)


def test_no_rows() -> None:
    given = CellInputs(torch.zeros(2, 0, 1, 15), None, None, torch.zeros(1, 15, 5), *[None] * 7)
    leaves = given._replace(w_hh=given.w_hh.requires_grad_())
    y, *_ = VariedFunction.apply(VariedPlan(NATIVE, CellOptions("gru", (0,))), *leaves)
    (grad,) = torch.autograd.grad(y.sum(), leaves.w_hh)
    assert y.shape == (2, 0, 1, 5) and not grad.any()
