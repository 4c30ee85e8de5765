# SPDX-License-Identifier: MIT
"""The CUDA backend's sources on an emulated GPU: right on any schedule, and faults are found."""

import subprocess
from collections.abc import Sequence
from dataclasses import replace
from itertools import product

import emulated
import pytest
import torch
from cases import CELLS, Case, judge, make, options, run
from emulated import BUILD, Device, Emulator, Fault, expect_races, goes_wrong, passes, same
from special import judge_rows, rows_of_specials, with_specials
from torch import Tensor

from fused_rnn import ops

HALF, EXACT = "bf16", "fp32"
# Two words a copy, and one by one: even and odd hidden sizes. The second needs the larger tile.
FAULTY = ("gru", "gru_reset_before", "lstm")
SHAPES = [Case("lstm", 7, 9, 4, 36), Case("lstm", 7, 3, 4, 69, reverse=(0, 1))]
RAGGED = Case("lstm", 7, 9, 4, 22, reverse=(0, 1), lengths=True, resets=True)
# Several blocks that meet after each step, which takes more than one block's 128 units.
GRID = Case("lstm", 4, 9, 4, 136, HALF, lengths=True, resets=True)
WIDE = replace(GRID, steps=3, batch=20, hidden=141, reverse=(1,))
# Three passes of rows, where a device holds one batch group.
MANY = replace(GRID, steps=2, batch=34, hidden=130)
BOTH = replace(GRID, steps=3, batch=3, hidden=130, reverse=(0, 1), bias=False, states=False)
# So many steps that the ring of what blocks hand around is used twice over.
LONG = replace(GRID, steps=35, batch=2, hidden=130, lengths=False)
TIERS = [(HALF, Device.NO_CLUSTERS), (EXACT, Device.NO_CLUSTERS), (HALF, Device.NO_SHARED_MEMORY)]


@pytest.fixture
def machine() -> Emulator:
    return emulated.emulator()


def every(cell: str, dtype: str) -> list[Case]:
    """The options, but for projections, which these kernels do not know."""
    return [case for case in options(cell, dtype) if not case.projection]


@pytest.mark.parametrize(
    ("cell", "dtype"), [*product(CELLS, ("bf16",)), *product(FAULTY, ("fp64",)), ("lstm", "fp16")]
)
def test_every_option(machine: Emulator, cell: str, dtype: str) -> None:
    for seed, case in enumerate(every(cell, dtype)):
        machine.schedule(seed)
        judge(case, run(case, make(case), emulated.NAME), emulated.NAME)


@pytest.mark.parametrize("cell", CELLS)
def test_every_option_by_library_products(machine: Emulator, cell: str) -> None:
    machine.use(Device.NO_SHARED_MEMORY)
    for case in [*every(cell, "fp64")[2::2], every(cell, "bf16")[-2], every(cell, "fp32")[-2]]:
        judge(case, run(case, make(case), emulated.NAME), emulated.NAME)


@pytest.mark.parametrize("case", SHAPES, ids=str)
@pytest.mark.parametrize("cell", ["rnn_tanh", "gru", "gru_reset_before", "lstm"])
def test_shapes_of_tiles(machine: Emulator, cell: str, case: Case) -> None:
    for dtype in (HALF, EXACT):
        one = replace(case, cell=cell, dtype=dtype)
        judge(one, run(one, make(one), emulated.NAME), emulated.NAME)


@pytest.mark.parametrize("cell", ["gru", "gru_reset_before", "lstm"])
@pytest.mark.parametrize("dtype", [HALF, EXACT])
def test_every_schedule_gives_the_same_bits(machine: Emulator, cell: str, dtype: str) -> None:
    case = replace(RAGGED, cell=cell, dtype=dtype, hidden=20, batch=3)
    inputs = make(case)
    first = run(case, inputs, emulated.NAME)
    judge(case, first, emulated.NAME)
    for seed in range(2, 14):
        machine.schedule(seed)
        for name, found in run(case, inputs, emulated.NAME).items():
            assert torch.equal(found, first[name]), f"{name} at seed {seed}"


@pytest.mark.parametrize("case", [GRID, WIDE, BOTH, LONG], ids=str)
@pytest.mark.parametrize("cell", ["rnn_relu", "gru", "lstm"])
def test_blocks_that_meet(machine: Emulator, cell: str, case: Case) -> None:
    case = replace(case, cell=cell, dtype="fp16" if cell == "gru" else HALF)
    judge(case, run(case, make(case), emulated.NAME), emulated.NAME)


@pytest.mark.parametrize(
    ("cell", "dtype", "batch"),
    [
        ("lstm", "bf16", 3),
        *(
            pytest.param(*case, marks=pytest.mark.long)
            for case in [
                ("gru", "fp16", 3),
                ("rnn_relu", "fp16", 10),
                ("lstm", "bf16", 10),
                ("rnn_tanh", "bf16", 36),
            ]
        ),
    ],
)
def test_weights_beyond_the_registers(machine: Emulator, cell: str, dtype: str, batch: int) -> None:
    """More than 1024 units: half of each block's weights are in shared memory."""
    machine.use(Device.ONE_GROUP)
    case = Case(cell, 2, batch, 4, 1040, dtype)
    judge(case, run(case, make(case), emulated.NAME), emulated.NAME)


@pytest.mark.parametrize(
    ("device", "case"),
    [(Device.SMALL, WIDE), (Device.SMALL, MANY), (Device.CROWDED, WIDE)],
    ids=str,
)
def test_fewer_multiprocessors(machine: Emulator, device: Device, case: Case) -> None:
    machine.use(device)
    judge(case, run(case, make(case), emulated.NAME), emulated.NAME)


@pytest.mark.parametrize(
    "case",
    [replace(GRID, steps=7, lengths=False), pytest.param(LONG, marks=pytest.mark.long)],
    ids=str,
)
@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_every_meeting_gives_the_same_bits(machine: Emulator, cell: str, case: Case) -> None:
    case = replace(case, cell=cell)
    first = both_passes(case)
    for seed in range(2, 14):
        machine.schedule(seed)
        assert same(both_passes(case), first), f"seed {seed}"


def both_passes(case: Case) -> list[Tensor]:
    results, arguments = passes(case)
    return [*results, *ops.PAIRS[emulated.NAME].backward(*arguments[:-1], False)[:3]]


@pytest.mark.parametrize(
    ("dtype", "device", "hidden"),
    [*((*tier, 20) for tier in TIERS), (HALF, Device.NO_CLUSTERS, 136)],
)
def test_nan_and_inf_end(machine: Emulator, dtype: str, device: Device, hidden: int) -> None:
    machine.use(device)
    case = Case("gru", 4, 3, 4, hidden, dtype)
    inputs = make(case)
    inputs.x[1, 0], inputs.x[2, 1] = torch.nan, torch.inf
    found = run(case, inputs, emulated.NAME)
    assert found["y"][1:, 0].isnan().all()
    assert found["y"][:, 2].isfinite().all()


@pytest.mark.parametrize(
    ("dtype", "device"),
    [
        # Fewer units than a tile has.
        ("fp16", Device.NO_CLUSTERS),
        (EXACT, Device.NO_CLUSTERS),
        # Not in 16 bits: PyTorch 2.13's own products of such on the CPU spread NaN over rows.
        (EXACT, Device.NO_SHARED_MEMORY),
    ],
)
@pytest.mark.parametrize("cell", CELLS)
def test_infinities_do_not_reach_others(
    machine: Emulator, cell: str, dtype: str, device: Device
) -> None:
    machine.use(device)
    case = Case(cell, 3, 1, 5, 21, dtype)
    rows = [row for row in rows_of_specials(case) if 1e30 not in map(abs, row.values())]
    wide, inputs = with_specials(case, rows, positive=True)
    truth = run(wide, inputs, "reference")
    judge_rows(case, rows, run(wide, inputs, emulated.NAME), truth)


def test_every_nan_is_handed_around(machine: Emulator) -> None:
    """Also those whose bits say that nothing is there yet."""
    case = replace(LONG, cell="rnn_relu", dtype="fp16", steps=3, resets=False)
    inputs = make(case)
    ones = torch.full((), -1, dtype=torch.int16).view(torch.float16)
    inputs.h0[:, 0], inputs.cotangents[1][:, 1] = ones, ones
    found = run(case, inputs, emulated.NAME)
    assert found["y"][:, 0].isnan().all()
    assert found["y"][:, 1].isfinite().all()
    assert found["dx"][:, 1].isnan().all()


@pytest.mark.parametrize(("dtype", "device"), TIERS)
def test_backward_leaves_its_arguments(machine: Emulator, dtype: str, device: Device) -> None:
    machine.use(device)
    for cell in ("gru", "gru_reset_before", "lstm"):
        (y, _, _, tape), arguments = passes(replace(RAGGED, cell=cell, dtype=dtype))
        before = y.clone(), tape.clone()
        backward = ops.PAIRS[emulated.NAME].backward
        once, again = backward(*arguments), backward(*arguments)
        assert all(torch.equal(*pair) for pair in zip(once[:3], again[:3], strict=True))
        assert torch.equal(y, before[0])
        # Steps past a row's end are never written, and may be anything.
        assert torch.equal(tape.nan_to_num(), before[1].nan_to_num())


@pytest.mark.parametrize(("dtype", "device"), TIERS)
def test_missing_cotangents(machine: Emulator, dtype: str, device: Device) -> None:
    machine.use(device)
    _, arguments = passes(replace(RAGGED, dtype=dtype))
    backward = ops.PAIRS[emulated.NAME].backward
    zeros = [torch.zeros_like(cotangent) for cotangent in arguments[:3]]
    for place in range(3):
        absent, zero = list(arguments), list(arguments)
        absent[place], zero[place] = None, zeros[place]
        for found, expected in zip(backward(*absent)[:3], backward(*zero)[:3], strict=True):
            assert torch.equal(found, expected)


def test_matrix_loads_meet_no_bank_twice(machine: Emulator) -> None:
    case = Case("lstm", 2, 8, 4, 128, "bf16")
    passes(case)
    assert machine.bank_conflicts() == 0


def test_every_kind_of_fault_is_found() -> None:
    emulated.emulator()
    done = subprocess.run([BUILD / "faults"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("case", "device"),
    [
        *((Case(c, 5, 5, 4, 36, d), Device.NO_CLUSTERS) for c in FAULTY for d in (HALF, EXACT)),
        (replace(GRID, cell="gru"), Device.NO_CLUSTERS),
        (WIDE, Device.SMALL),
    ],
    ids=str,
)
def test_no_barrier_can_be_left_out(machine: Emulator, case: Case, device: Device) -> None:
    machine.use(device)
    expect_races(machine, lambda: passes(case))
    _, arguments = passes(case)
    # Without the weight gradients, whose kernels meet no barrier.
    expect_races(machine, lambda: ops.PAIRS[emulated.NAME].backward(*arguments[:-1], False))


@pytest.mark.parametrize("backward", [False, True])
def test_the_ring_is_seen_to_be_clear(machine: Emulator, backward: bool) -> None:
    """Without the counters' order, or a barrier, a step may find numbers of a lap before."""
    _, arguments = passes(LONG)

    def go() -> Sequence[Tensor]:
        if backward:
            return ops.PAIRS[emulated.NAME].backward(*arguments[:-1], False)[:3]
        return passes(LONG)[0]

    expected = go()
    barriers = [(Fault.NO_BARRIER, site) for site in range(machine.barriers())]
    assert len(barriers) >= 4
    machine.schedule(2)
    assert same(go(), expected)
    for fault, site in [(Fault.NO_RELEASE, 0), (Fault.NO_ACQUIRE, 0), *barriers]:
        machine.plant(fault, site)
        assert any(goes_wrong(machine, seed, go, expected) for seed in range(1, 13)), (fault, site)


@pytest.mark.parametrize("cell", FAULTY)
def test_no_wait_for_copies_can_be_left_out(machine: Emulator, cell: str) -> None:
    case = Case(cell, 5, 5, 4, 36, "bf16")
    _, arguments = passes(case)
    machine.plant(Fault.NO_COPY_WAIT)
    with pytest.raises(RuntimeError, match="unfinished copy"):
        passes(case)
    with pytest.raises(RuntimeError, match="unfinished copy"):
        ops.PAIRS[emulated.NAME].backward(*arguments)
