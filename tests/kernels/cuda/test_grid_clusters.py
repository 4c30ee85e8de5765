# SPDX-License-Identifier: MIT
"""The grid tier's backward by two dimensions, emulated: a grid of clusters, dG along columns."""

from collections.abc import Sequence
from dataclasses import replace

import emulated
import pytest
import torch
from cases import Case, judge, make, run
from emulated import Device, Emulator, Fault, expect_races, goes_wrong, passes, same
from torch import Tensor

from fused_rnn import ops

CELLS = ("rnn_relu", "gru", "lstm")
# More units than a cluster of four holds, so four clusters, the last with blocks past the end.
RAGGED = Case("lstm", 4, 9, 4, 194, "bf16", lengths=True, resets=True)
# Two passes of rows.
WIDE = replace(RAGGED, steps=3, batch=20, hidden=197, reverse=(1,), dtype="fp16")
BOTH = replace(RAGGED, steps=3, batch=3, reverse=(0, 1), bias=False, states=False)
# So many steps that the ring of what blocks hand around is used again.
LONG = replace(RAGGED, steps=26, batch=2, lengths=False)


@pytest.fixture
def machine() -> Emulator:
    machine = emulated.emulator()
    machine.use(Device.FEW_CLUSTERS)
    return machine


def backward(case: Case) -> Sequence[Tensor]:
    """dx, dh0 and dc0; no weight gradients, whose kernels are others."""
    _, arguments = passes(case)
    return ops.PAIRS[emulated.NAME].backward(*arguments[:-1], False)[:3]


@pytest.mark.parametrize("case", [RAGGED, WIDE, LONG], ids=str)
@pytest.mark.parametrize("cell", CELLS)
def test_columns(machine: Emulator, cell: str, case: Case) -> None:
    case = replace(case, cell=cell)
    judge(case, run(case, make(case), emulated.NAME), emulated.NAME)


@pytest.mark.long
@pytest.mark.parametrize("cell", CELLS)
def test_both_directions(machine: Emulator, cell: str) -> None:
    machine.use(Device.SMALL_CLUSTERS)
    case = replace(BOTH, cell=cell)
    judge(case, run(case, make(case), emulated.NAME), emulated.NAME)


@pytest.mark.parametrize("cell", CELLS)
def test_a_rank_for_each_warp(machine: Emulator, cell: str) -> None:
    machine.use(Device.EIGHTS)
    case = Case(cell, 3, 10, 4, 390, "bf16", lengths=True, resets=True)
    judge(case, run(case, make(case), emulated.NAME), emulated.NAME)


@pytest.mark.long
def test_weights_beyond_the_registers(machine: Emulator) -> None:
    """More than 1280 units: some weights of each warp are in shared memory."""
    machine.use(Device.EIGHTS)
    case = Case("lstm", 2, 2, 4, 1290, "bf16")
    judge(case, run(case, make(case), emulated.NAME), emulated.NAME)
    assert "clusters of 8 " in machine.last_plan(backward=True)


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_every_schedule_gives_the_same_bits(machine: Emulator, cell: str) -> None:
    same_bits(machine, replace(WIDE, cell=cell, lengths=False), range(2, 5))


@pytest.mark.long
@pytest.mark.parametrize("case", [WIDE, LONG], ids=str)
@pytest.mark.parametrize("cell", CELLS)
def test_many_schedules_give_the_same_bits(machine: Emulator, cell: str, case: Case) -> None:
    same_bits(machine, replace(case, cell=cell, lengths=False), range(5, 15))


def same_bits(machine: Emulator, case: Case, seeds: range) -> None:
    first = backward(case)
    for seed in seeds:
        machine.schedule(seed)
        assert same(backward(case), first), f"seed {seed}"


def test_clusters_that_cannot_be_launched(machine: Emulator) -> None:
    machine.use(Device.NO_FOURTH_CLUSTER)
    judge(RAGGED, run(RAGGED, make(RAGGED), emulated.NAME), emulated.NAME)


def test_every_nan_is_handed_around(machine: Emulator) -> None:
    """Also those whose bits say that nothing is there yet."""
    case = replace(RAGGED, cell="rnn_relu", dtype="fp16", steps=3, resets=False, lengths=False)
    inputs = make(case)
    inputs.cotangents[1][:, 1] = torch.full((), -1, dtype=torch.int16).view(torch.float16)
    found = run(case, inputs, emulated.NAME)
    assert found["dx"][:, 1].isnan().all()
    assert found["dx"][:, 0].isfinite().all()


def test_backward_leaves_its_arguments(machine: Emulator) -> None:
    (y, _, _, tape), arguments = passes(RAGGED)
    before = y.clone(), tape.clone()
    op = ops.PAIRS[emulated.NAME].backward
    assert same(op(*arguments[:-1], False)[:3], op(*arguments[:-1], False)[:3])
    assert torch.equal(y, before[0])
    assert torch.equal(tape.nan_to_num(), before[1].nan_to_num())


@pytest.mark.parametrize("cell", CELLS)
def test_matrix_loads_meet_no_bank_twice(machine: Emulator, cell: str) -> None:
    backward(replace(RAGGED, cell=cell))
    assert machine.bank_conflicts() == 0


def test_no_barrier_can_be_left_out(machine: Emulator) -> None:
    case = replace(WIDE, lengths=False)
    _, arguments = passes(case)
    expect_races(machine, lambda: ops.PAIRS[emulated.NAME].backward(*arguments[:-1], False), 1)


FAULTS = {
    Fault.NO_CLUSTER_SYNC: "not initialised|race",
    Fault.NO_PUSH_WAIT: "race|unfinished copy",
    Fault.TOO_FEW_BYTES: "more bytes pushed than expected|race|unfinished copy",
}


@pytest.mark.parametrize(("fault", "message"), FAULTS.items(), ids=str)
def test_pushes_need_their_barriers(machine: Emulator, fault: Fault, message: str) -> None:
    _, arguments = passes(RAGGED)
    machine.plant(fault)
    with pytest.raises(RuntimeError, match=message):
        ops.PAIRS[emulated.NAME].backward(*arguments)


def test_the_ring_is_seen_to_be_clear(machine: Emulator) -> None:
    """Without the counters' order, or a barrier, a step may find numbers of a lap before."""
    _, arguments = passes(LONG)

    def go() -> Sequence[Tensor]:
        return ops.PAIRS[emulated.NAME].backward(*arguments[:-1], False)[:3]

    expected = go()
    barriers = [(Fault.NO_BARRIER, site) for site in range(machine.barriers())]
    assert len(barriers) >= 3
    for fault, site in [(Fault.NO_RELEASE, 0), (Fault.NO_ACQUIRE, 0), *barriers]:
        machine.plant(fault, site)
        assert any(goes_wrong(machine, seed, go, expected) for seed in range(1, 13)), (fault, site)
