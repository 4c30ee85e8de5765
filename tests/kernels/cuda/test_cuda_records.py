# SPDX-License-Identifier: MIT
"""What the CUDA backend tells of its launches: plans that ran, that did not fit, lost waits.

On an emulated GPU, by the host code that serves real ones.
"""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import emulated
import pytest
import torch
from cases import DTYPES, Case, judge, make, run
from emulated import Device, Emulator

from fused_rnn import extensions
from fused_rnn.extensions import CudaDevice, cuda_plan

SMALL = Case("lstm", 3, 2, 4, 24, "bf16")
LARGE = replace(SMALL, hidden=136)
NO_ROOM = "the blocks do not fit the device at once"


@pytest.fixture
def machine() -> Emulator:
    if extensions.why_unavailable() is not None:
        pytest.skip(f"native: {extensions.why_unavailable()}")
    return emulated.emulator()


def go(case: Case) -> None:
    judge(case, run(case, make(case), emulated.NAME), emulated.NAME)


def planned(case: Case, device: Device, *, backward: bool) -> str:
    processors, shared_bytes, _, cluster = device.value
    sizes = {"steps": case.steps, "batch": case.batch, "recurrences": 1, "hidden": case.hidden}
    known = CudaDevice(processors, shared_bytes, cluster)
    dtype: torch.dtype = DTYPES[case.dtype]
    return cuda_plan(case.cell, dtype, **sizes, device=known, backward=backward)


@pytest.mark.parametrize(
    ("case", "device", "tier"),
    [
        (SMALL, Device.NO_CLUSTERS, "tier block"),
        (replace(SMALL, dtype="fp32"), Device.NO_CLUSTERS, "tier exact"),
        (LARGE, Device.NO_CLUSTERS, "tier grid"),
        (LARGE, Device.SMALL_CLUSTERS, "tier cluster"),
        (SMALL, Device.NO_SHARED_MEMORY, "tier stepwise"),
    ],
    ids=str,
)
def test_what_ran_is_what_was_planned(
    case: Case, device: Device, tier: str, machine: Emulator
) -> None:
    machine.use(device)
    go(case)
    for backward in (False, True):
        found = machine.last_plan(backward=backward)
        assert found == planned(case, device, backward=backward)
        assert found.startswith(tier)


def test_a_grid_that_does_not_fit_is_counted(machine: Emulator) -> None:
    machine.use(Device.CROWDED)
    before = machine.fallbacks("tier grid")
    go(LARGE)
    assert planned(LARGE, Device.CROWDED, backward=False).startswith("tier grid")
    for backward in (False, True):
        found = machine.last_plan(backward=backward)
        assert found.startswith("tier stepwise") and found.endswith(NO_ROOM)
    assert machine.fallbacks("tier grid") == before + 2


def test_clusters_that_do_not_fit_are_counted(machine: Emulator) -> None:
    """Nor does the grid in their place."""
    machine.use(Device.PARTED)
    before = [machine.fallbacks(tier) for tier in ("tier cluster", "tier grid")]
    go(LARGE)
    assert planned(LARGE, Device.PARTED, backward=False).startswith("tier cluster")
    assert machine.last_plan(backward=False).startswith("tier stepwise")
    after = [machine.fallbacks(tier) for tier in ("tier cluster", "tier grid")]
    assert [b - a for a, b in zip(before, after, strict=True)] == [2, 2]


@pytest.mark.parametrize("backward", [False, True])
def test_the_next_call_tells_of_a_wait_that_ran_out(backward: bool, machine: Emulator) -> None:
    stranded = replace(LARGE, steps=11)
    machine.strand(stranded, backward=backward)
    name = f"tier grid, {'backward' if backward else 'forward'}, T 11, B 2, N 1, H 136, device 0"
    with pytest.raises(RuntimeError, match=f"a wait of a kernel ran out.* are NaN: {name}"):
        go(SMALL)
    # Once.
    go(SMALL)


def test_all_kinds_of_launches_that_were_stranded_are_told_of(machine: Emulator) -> None:
    machine.strand(LARGE, backward=False)
    machine.strand(LARGE, backward=True)
    with pytest.raises(RuntimeError, match="grid, forward, T 3, .*; tier grid, backward, T 3"):
        go(SMALL)
    go(SMALL)


MANY_SHAPES = """
from dataclasses import replace
import emulated, test_cuda_records as records
machine = emulated.emulator()
for steps in range(1, 1200):
    machine.strand(replace(records.LARGE, steps=steps, batch=77), backward=False)
records.go(records.SMALL)
"""


@pytest.mark.usefixtures("machine")
def test_more_shapes_than_there_are_words() -> None:
    """They share the last word, whose name says so; in a process that needs no other names."""
    command = [sys.executable, "-c", MANY_SHAPES]
    places = [*sys.path, str(Path(__file__).parent)]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(places)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "T 1023, B 77, N 1, H 136, device 0; a shape past the first ones" in done.stderr
