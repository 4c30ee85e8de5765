# SPDX-License-Identifier: MIT
"""The cluster tier on an emulated GPU: blocks that push into each other's shared memory."""

from dataclasses import replace

import emulated
import pytest
import torch
from cases import Case, judge, make, run
from emulated import Device, Emulator, Fault, expect_races, passes

from fused_rnn import ops

CELLS = ("rnn_relu", "gru", "gru_reset_before", "lstm")
# Four blocks of three groups of units; an odd size, two passes of rows, both directions.
RAGGED = Case("lstm", 7, 9, 4, 136, "bf16", lengths=True, resets=True)
WIDE = replace(RAGGED, steps=3, batch=20, hidden=141, reverse=(1,), dtype="fp16")
BOTH = replace(RAGGED, steps=3, batch=3, hidden=130, reverse=(0, 1), bias=False, states=False)


@pytest.fixture
def machine() -> Emulator:
    machine = emulated.emulator()
    machine.use(Device.SMALL_CLUSTERS)
    return machine


@pytest.mark.parametrize("case", [RAGGED, BOTH], ids=str)
@pytest.mark.parametrize("cell", CELLS)
def test_pushes(machine: Emulator, cell: str, case: Case) -> None:
    case = replace(case, cell=cell)
    judge(case, run(case, make(case), emulated.NAME), emulated.NAME)


@pytest.mark.parametrize("cell", CELLS)
def test_several_passes_of_rows(machine: Emulator, cell: str) -> None:
    """One group of many rows, where a device takes one cluster of that size at once."""
    case = replace(WIDE, cell=cell)
    machine.use(Device.ONE_CLUSTER)
    judge(case, run(case, make(case), emulated.NAME), emulated.NAME)


@pytest.mark.parametrize(
    ("device", "hidden", "shape"),
    [
        (Device.EIGHTS, 136, "clusters of 8 of 256 threads"),
        (Device.EIGHTS, 264, "clusters of 8 of 384 threads"),
        (Device.CLUSTERS, 136, "clusters of 16 of 128 threads"),
        (Device.CLUSTERS, 264, "clusters of 16 of 256 threads"),
    ],
    ids=str,
)
@pytest.mark.parametrize("cell", ["gru_reset_before", "lstm"])
def test_every_shape_of_clusters(
    machine: Emulator, cell: str, device: Device, hidden: int, shape: str
) -> None:
    machine.use(device)
    case = replace(RAGGED, cell=cell, steps=3, hidden=hidden)
    judge(case, run(case, make(case), emulated.NAME), emulated.NAME)
    for backward in (False, True):
        assert shape in machine.last_plan(backward=backward)


@pytest.mark.parametrize(
    ("cell", "dtype"),
    [
        ("lstm", "bf16"),
        *(pytest.param(cell, "fp16", marks=pytest.mark.long) for cell in CELLS[:3]),
    ],
)
def test_weights_beyond_the_registers(machine: Emulator, cell: str, dtype: str) -> None:
    """Three groups in clusters of 16, which takes more than 512 units."""
    machine.use(Device.CLUSTERS)
    case = Case(cell, 2, 2, 4, 520, dtype)
    judge(case, run(case, make(case), emulated.NAME), emulated.NAME)


@pytest.mark.parametrize("cell", ["gru_reset_before", "lstm"])
def test_every_schedule_gives_the_same_bits(machine: Emulator, cell: str) -> None:
    same_bits(machine, replace(RAGGED, cell=cell, lengths=False, batch=5), range(2, 6))


@pytest.mark.long
@pytest.mark.parametrize("cell", CELLS)
def test_many_schedules_give_the_same_bits(machine: Emulator, cell: str) -> None:
    same_bits(machine, replace(RAGGED, cell=cell, lengths=False, batch=5), range(6, 30))


def same_bits(machine: Emulator, case: Case, seeds: range) -> None:
    first, arguments = passes(case)
    backward = ops.PAIRS[emulated.NAME].backward
    grads = backward(*arguments[:-1], False)
    for seed in seeds:
        machine.schedule(seed)
        found, _ = passes(case)
        assert all(torch.equal(*pair) for pair in zip(found, first, strict=True)), f"seed {seed}"
        again = backward(*arguments[:-1], False)[:3]
        assert all(torch.equal(*pair) for pair in zip(again, grads[:3], strict=True)), seed


def test_no_cluster_can_be_launched(machine: Emulator) -> None:
    machine.use(Device.PARTED)
    judge(RAGGED, run(RAGGED, make(RAGGED), emulated.NAME), emulated.NAME)


def test_nan_and_inf_end(machine: Emulator) -> None:
    case = Case("gru", 4, 3, 4, 136, "bf16")
    inputs = make(case)
    inputs.x[1, 0], inputs.x[2, 1] = torch.nan, torch.inf
    found = run(case, inputs, emulated.NAME)
    assert found["y"][1:, 0].isnan().all()
    assert found["y"][:, 2].isfinite().all()


@pytest.mark.parametrize("cell", ["gru_reset_before", "lstm"])
def test_no_barrier_can_be_left_out(machine: Emulator, cell: str) -> None:
    case = replace(RAGGED, cell=cell, steps=3, lengths=False)
    expect_races(machine, lambda: passes(case))
    _, arguments = passes(case)
    expect_races(machine, lambda: ops.PAIRS[emulated.NAME].backward(*arguments[:-1], False), 1)


FAULTS = {
    Fault.NO_CLUSTER_SYNC: "not initialised|race",
    Fault.NO_PUSH_WAIT: "race",
    Fault.TOO_FEW_BYTES: "more bytes pushed than expected|race",
}


@pytest.mark.parametrize(("fault", "message"), FAULTS.items(), ids=str)
def test_pushes_need_their_barriers(machine: Emulator, fault: Fault, message: str) -> None:
    case = replace(RAGGED, steps=4)
    _, arguments = passes(case)
    machine.plant(fault)
    with pytest.raises(RuntimeError, match=message):
        passes(case)
    with pytest.raises(RuntimeError, match=message):
        ops.PAIRS[emulated.NAME].backward(*arguments)
