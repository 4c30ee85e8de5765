# SPDX-License-Identifier: MIT
"""Waits that run out: what a lost signal leaves is NaN, and the next call says so."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import emulated
import pytest
from cases import Case
from emulated import Device, Emulator, Fault, passes, same
from torch import Tensor

from fused_rnn import ops

CLUSTER = Case("lstm", 5, 9, 4, 136, "bf16", lengths=True, resets=True)
# Every unit and row of every block is there, so that whatever is lost is seen.
WHOLE = replace(CLUSTER, batch=16, hidden=160, lengths=False, resets=False)
GRID = replace(CLUSTER, steps=4, resets=False)
COLUMNS = replace(GRID, hidden=194)
# So many steps that the ring is used again, which takes counts.
LONG = replace(GRID, steps=19, batch=2, hidden=130, lengths=False)


class Kind(NamedTuple):
    """A signal of one tier and pass, and which of them are lost in turn."""

    device: Device
    case: Case
    fault: Fault
    sites: tuple[int, ...]
    tier: str
    backward: bool = False

    def __str__(self) -> str:
        tier = self.tier.replace(" ", "") + ("-clusters" if self.device.value[3] > 1 else "")
        names = (tier, "backward" if self.backward else "forward", self.case.cell, self.fault.name)
        return "-".join(names)


PUSHES = (0, 700)
STORES = (9, 500)
# Of a launch's pushes the last: nothing waits behind it but the end of the block.
LAST_PUSH = 15_359
KINDS = [
    Kind(Device.SMALL_CLUSTERS, CLUSTER, Fault.LOST_PUSH, PUSHES, "tier cluster"),
    Kind(Device.SMALL_CLUSTERS, CLUSTER, Fault.LOST_PUSH, PUSHES, "tier cluster", True),
    Kind(Device.SMALL_CLUSTERS, WHOLE, Fault.LOST_PUSH, (LAST_PUSH,), "tier cluster", True),
    # Every push is awaited too long.
    Kind(Device.SMALL_CLUSTERS, CLUSTER, Fault.TOO_MANY_BYTES, (0,), "tier cluster"),
    Kind(Device.SMALL_CLUSTERS, CLUSTER, Fault.TOO_MANY_BYTES, (0,), "tier cluster", True),
    *(
        Kind(
            Device.SMALL_CLUSTERS,
            replace(CLUSTER, cell="gru_reset_before"),
            Fault.LOST_PUSH,
            PUSHES,
            "tier cluster",
            backward,
        )
        for backward in (False, True)
    ),
    Kind(Device.NO_CLUSTERS, GRID, Fault.LOST_STORE, STORES, "tier grid"),
    Kind(Device.NO_CLUSTERS, GRID, Fault.LOST_STORE, STORES, "tier grid", True),
    Kind(Device.NO_CLUSTERS, LONG, Fault.LOST_COUNT, (1,), "tier grid"),
    Kind(Device.NO_CLUSTERS, LONG, Fault.LOST_COUNT, (1,), "tier grid", True),
    Kind(Device.FEW_CLUSTERS, COLUMNS, Fault.LOST_PUSH, PUSHES, "tier grid", True),
    Kind(Device.FEW_CLUSTERS, COLUMNS, Fault.TOO_MANY_BYTES, (0,), "tier grid", True),
    Kind(Device.FEW_CLUSTERS, COLUMNS, Fault.LOST_STORE, STORES, "tier grid", True),
    Kind(
        Device.FEW_CLUSTERS,
        replace(LONG, hidden=194),
        Fault.LOST_COUNT,
        (1,),
        "tier grid",
        True,
    ),
]


@pytest.fixture
def machine() -> Emulator:
    return emulated.emulator()


def runner(kind: Kind) -> Callable[[], Sequence[Tensor]]:
    """What runs the kind's kernel and returns hn and y, or dh0 and dx."""
    if not kind.backward:
        return lambda: passes(kind.case)[0][1::-1]
    _, arguments = passes(kind.case)
    return lambda: ops.PAIRS[emulated.NAME].backward(*arguments[:-1], False)[1::-1]


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_lost_signal_ends_in_nan(machine: Emulator, kind: Kind) -> None:
    machine.use(kind.device)
    go = runner(kind)
    expected = go()
    for seed, site in enumerate(kind.sites, 1):
        machine.schedule(seed)
        machine.plant(kind.fault, site)
        state, _ = go()
        machine.plant(Fault.NONE)
        assert state.isnan().any(), site
        way = "backward" if kind.backward else "forward"
        with pytest.raises(RuntimeError, match=f"a wait of a kernel ran out.*{kind.tier}, {way}"):
            go()
        assert same(go(), expected), site


@pytest.mark.parametrize("seed", range(1, 5))
def test_what_is_under_way_lands_before_a_block_exits(machine: Emulator, seed: int) -> None:
    """Whatever the order in which the blocks of a cluster give up."""
    machine.use(Device.SMALL_CLUSTERS)
    go = runner(KINDS[0])
    machine.schedule(seed)
    machine.plant(Fault.LOST_PUSH, 300)
    assert go()[0].isnan().any()
    machine.plant(Fault.NONE)
    with pytest.raises(RuntimeError, match="a wait of a kernel ran out"):
        go()
