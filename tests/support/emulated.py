# SPDX-License-Identifier: MIT
"""The CUDA backend on the CPU: its own sources, compiled by g++, under a seeded schedule."""

import ctypes
import enum
import fcntl
import functools
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from cases import Case, make
from torch import Tensor

from fused_rnn import ops
from fused_rnn._call import autograd

NAME = "emulated"
TESTS = Path(__file__).parents[1]
FOLDER = TESTS / "kernels" / "cuda" / "emulator"
BUILD = TESTS.parent / "build" / "emulator"


class Device(enum.Enum):
    """Multiprocessors, bytes of shared memory of one block, how many blocks run at once, and how
    many make up a cluster at most."""

    # Hopper's sizes, without its clusters and with.
    NO_CLUSTERS = (132, 227 * 1024, 132, 1)
    CLUSTERS = (132, 227 * 1024, 132, 16)
    SMALL_CLUSTERS = (132, 227 * 1024, 132, 4)
    EIGHTS = (132, 227 * 1024, 132, 8)
    # One batch group of four clusters, and what is planned so but can be launched without alone.
    FEW_CLUSTERS = (18, 227 * 1024, 18, 4)
    NO_FOURTH_CLUSTER = (132, 227 * 1024, 15, 4)
    # One cluster at once.
    ONE_CLUSTER = (18, 227 * 1024, 18, 16)
    # No cluster that was planned can be launched.
    PARTED = (132, 227 * 1024, 3, 4)
    # One batch group of the tests' larger layers, not two, and not all gates at once.
    SMALL = (14, 72 * 1024, 14, 1)
    # The same for a layer of little more than 1024 units.
    ONE_GROUP = (65, 227 * 1024, 65, 1)
    # Others hold most multiprocessors: what was planned cannot be launched.
    CROWDED = (132, 227 * 1024, 4, 1)
    # Nothing fits one block: library products between the steps.
    NO_SHARED_MEMORY = (132, 256, 132, 16)


class Fault(enum.Enum):
    """What the emulator leaves out of a primitive; the order is machine.h's."""

    NONE = 0
    NO_BARRIER = 1
    NO_COPY_WAIT = 2
    NO_RELEASE = 3
    NO_ACQUIRE = 4
    NO_CLUSTER_SYNC = 5
    NO_PUSH_WAIT = 6
    TOO_MANY_BYTES = 7
    TOO_FEW_BYTES = 8
    LOST_PUSH = 9
    LOST_STORE = 10
    LOST_COUNT = 11


@functools.cache
def build() -> str | None:
    """Builds everything; None, or why that cannot be done here."""
    for tool in ("make", "g++"):
        if shutil.which(tool) is None:
            return f"{tool} is not installed"
    torch_folder = Path(torch.__file__).parent
    command = ["make", "-C", str(FOLDER), f"TORCH={torch_folder}", f"BUILD={BUILD}"]
    BUILD.mkdir(parents=True, exist_ok=True)
    with (BUILD / "lock").open("w") as lock:
        # Tests run in several processes, of which one builds.
        fcntl.flock(lock, fcntl.LOCK_EX)
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return None


class Emulator:
    """The loaded library and its switches."""

    def __init__(self) -> None:
        path = str(BUILD / "emulated.so")
        ops.PAIRS[NAME] = ops._pair(NAME)
        torch.ops.load_library(path)
        autograd._register(autograd._LIBRARY, ops.PAIRS[NAME])
        self._library = ctypes.CDLL(path)
        self._library.emulator_bank_conflicts.restype = ctypes.c_uint64
        self._library.emulator_last_plan.restype = ctypes.c_char_p
        self._library.emulator_fallbacks.restype = ctypes.c_int64

    def use(self, device: Device) -> None:
        """Plans are made for this device from now on."""
        self._library.emulator_set_device(*device.value)

    def schedule(self, seed: int) -> None:
        """Launches run under this schedule from now on."""
        self._library.emulator_set_schedule(ctypes.c_uint64(seed))

    def plant(self, fault: Fault, site: int = 0) -> None:
        """Launches have this fault from now on; `site` is which barrier is left out, or which
        signal of a launch is lost.
        """
        self._library.emulator_plant(fault.value, site)

    def last_plan(self, *, backward: bool) -> str:
        """Returns the plan of the last pass that ran."""
        return bytes(self._library.emulator_last_plan(int(backward))).decode()

    def fallbacks(self, tier: str) -> int:
        """Returns how often passes rewound from a tier."""
        return int(self._library.emulator_fallbacks(tier.encode()))

    def strand(self, case: Case, *, backward: bool) -> None:
        """Sets the word of a case's launches in grid, as a kernel does whose wait ran out."""
        sizes = (case.steps, case.batch, len(case.reverse), case.hidden)
        self._library.emulator_strand(*sizes, int(backward))

    def barriers(self) -> int:
        """In the source of the last kernel that met any."""
        return int(self._library.emulator_barriers())

    def bank_conflicts(self) -> int:
        """Of the matrix loads of the last launch."""
        return int(self._library.emulator_bank_conflicts())


@functools.cache
def _load() -> Emulator:
    return Emulator()


def emulator() -> Emulator:
    """The emulator in its initial state; skips the test where it cannot be built."""
    reason = build()
    if reason is not None:
        pytest.skip(f"the emulator is not built: {reason}")
    loaded = _load()
    loaded.use(Device.NO_CLUSTERS)
    loaded.schedule(1)
    loaded.plant(Fault.NONE)
    return loaded


def passes(case: Case) -> tuple[tuple[Tensor, ...], tuple[object, ...]]:
    """The results of the forward op and the arguments of the backward one."""
    i = make(case)
    pair = ops.PAIRS[NAME]
    tensors = (i.x, i.h0, i.c0, i.weights, i.lengths, i.resets)
    y, hn, cn, tape, _ = pair.forward(*tensors, case.cell, case.reverse, True)
    dy, dhn, *dcn = i.cotangents
    arguments = (dy, dhn, dcn[0] if dcn else None, *tensors, y, tape, case.cell, case.reverse)
    return (y, hn, cn, tape), (*arguments, True, True, True)


def expect_races(machine: Emulator, run: Callable[[], object], least: int = 2) -> None:
    """Every barrier that `run` meets, `least` or more, is missed when it is left out."""
    run()
    barriers = machine.barriers()
    assert barriers >= least
    for site in range(barriers):
        machine.plant(Fault.NO_BARRIER, site)
        with pytest.raises(RuntimeError, match="race"):
            run()
    machine.plant(Fault.NONE)


def same(found: Sequence[Tensor], expected: Sequence[Tensor]) -> bool:
    """Whether all tensors have the same bits."""
    return all(torch.equal(*pair) for pair in zip(found, expected, strict=True))


def goes_wrong(
    machine: Emulator, seed: int, go: Callable[[], Sequence[Tensor]], expected: Sequence[Tensor]
) -> bool:
    """Whether a schedule shows a fault, as a race or in the numbers."""
    machine.schedule(seed)
    try:
        return not same(go(), expected)
    except RuntimeError as error:
        assert "race" in str(error)
        return True
