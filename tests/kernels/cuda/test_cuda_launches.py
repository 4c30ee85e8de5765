# SPDX-License-Identifier: MIT
"""What the CUDA backend asks of CUDA for a launch, on a runtime that is made up."""

import ctypes
import enum
import itertools
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
TOO_LARGE = "the blocks do not fit the device at once"
# The library remembers kernels as long as it is loaded.
KERNELS = itertools.count(1)


class Call(enum.IntEnum):
    """Of the runtime; the order is runtime.cpp's."""

    DEVICE = 0
    DEVICE_ATTRIBUTE = 1
    SET_ATTRIBUTE = 2
    OCCUPANCY = 3
    LAUNCH = 4


class Status(enum.IntEnum):
    """Of a call; the order is cuda_runtime_api.h's."""

    SUCCESS = 0
    INVALID_VALUE = 1
    INVALID_CLUSTER_SIZE = 2
    COOPERATIVE_TOO_LARGE = 3


class Runtime:
    """The loaded library."""

    def __init__(self, path: Path) -> None:
        self._library = ctypes.CDLL(str(path))
        self._library.runtime_launch.restype = ctypes.c_char_p
        self._library.runtime_launch.argtypes = [
            *(ctypes.c_void_p, ctypes.c_uint, ctypes.c_size_t, ctypes.c_int, ctypes.c_int)
        ]

    def use(self, device: int = 0, *, clusters: bool = True, at_once: int = 8) -> None:
        """Starts from a device of which nothing was asked yet."""
        self._library.runtime_use(device, int(clusters), at_once)

    def fail(self, call: Call, status: Status) -> None:
        """Every such call fails from now on; none, with SUCCESS."""
        self._library.runtime_fail(int(call), int(status))

    def count(self, call: Call) -> int:
        """How often a function was called."""
        return int(self._library.runtime_count(int(call)))

    def last_error(self) -> int:
        """What CUDA would report of an earlier call."""
        return int(self._library.runtime_last_error())

    def launch(
        self,
        kernel: int,
        blocks: int = 16,
        shared: int = 1024,
        *,
        cluster: int = 1,
        cooperative: bool = False,
    ) -> str | None:
        """Returns what went wrong."""
        found = self._library.runtime_launch(kernel, blocks, shared, cluster, int(cooperative))
        return None if found is None else found.decode()


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Runtime:
    if shutil.which("g++") is None:
        pytest.skip("g++ is not installed")
    path = tmp_path_factory.mktemp("launches") / "launches.so"
    here = ROOT / "tests" / "kernels" / "cuda" / "launches"
    command = ["g++", "-std=c++20", "-shared", "-fPIC", "-fvisibility=hidden", f"-I{here}"]
    sources = [ROOT / "csrc" / "cuda" / "launch.cpp", here / "runtime.cpp"]
    subprocess.run([*command, *map(str, sources), "-o", str(path)], check=True)
    return Runtime(path)


@pytest.fixture
def runtime(loaded: Runtime) -> Runtime:
    loaded.use()
    return loaded


def test_a_smaller_launch_takes_nothing_from_a_larger_one(runtime: Runtime) -> None:
    """Another thread's launch may lie between what a launch sets and the launch itself."""
    kernel = next(KERNELS)
    for shared, cluster in ((200 * 1024, 16), (50 * 1024, 8), (200 * 1024, 16)):
        assert runtime.launch(kernel, shared=shared, cluster=cluster) is None
    assert runtime.count(Call.SET_ATTRIBUTE) == 2


def test_every_device_and_kernel_is_permitted_for_itself(runtime: Runtime) -> None:
    kernel = next(KERNELS)
    assert runtime.launch(kernel, shared=200 * 1024) is None
    assert runtime.launch(next(KERNELS), shared=200 * 1024) is None
    runtime.use(1, clusters=False)
    assert runtime.launch(kernel, shared=200 * 1024) is None
    assert runtime.count(Call.SET_ATTRIBUTE) == 1


def test_clusters_are_counted_once(runtime: Runtime) -> None:
    kernel = next(KERNELS)
    for _ in range(3):
        assert runtime.launch(kernel, cluster=8) is None
    assert runtime.count(Call.OCCUPANCY) == 1
    assert runtime.launch(kernel, shared=2048, cluster=8) is None
    assert runtime.launch(kernel, cluster=4) is None
    assert runtime.count(Call.OCCUPANCY) == 3


def test_what_is_too_large_is_not_launched(runtime: Runtime) -> None:
    runtime.use(at_once=1)
    kernel = next(KERNELS)
    assert runtime.launch(kernel, blocks=16, cluster=8) is None
    assert runtime.launch(kernel, blocks=16, cluster=8, cooperative=True) == TOO_LARGE
    assert runtime.count(Call.LAUNCH) == 1
    runtime.use(at_once=0)
    assert runtime.launch(next(KERNELS), cluster=8) == TOO_LARGE


@pytest.mark.parametrize("call", list(Call), ids=lambda call: call.name)
def test_no_error_stays_behind(call: Call, runtime: Runtime) -> None:
    runtime.fail(call, Status.INVALID_VALUE)
    kernel = next(KERNELS)
    assert runtime.launch(kernel, cluster=8) == "invalid value"
    assert runtime.last_error() == 0
    # Nor is it taken for an answer.
    runtime.fail(call, Status.SUCCESS)
    assert runtime.launch(kernel, shared=200 * 1024, cluster=16) is None


@pytest.mark.parametrize(
    ("call", "status"),
    [(Call.OCCUPANCY, Status.INVALID_CLUSTER_SIZE), (Call.LAUNCH, Status.COOPERATIVE_TOO_LARGE)],
    ids=["cluster", "grid"],
)
def test_too_large_leaves_no_error_behind(call: Call, status: Status, runtime: Runtime) -> None:
    runtime.fail(call, status)
    assert runtime.launch(next(KERNELS), cluster=8, cooperative=True) == TOO_LARGE
    assert runtime.last_error() == 0
