# SPDX-License-Identifier: MIT
"""The least time a case can take: its FLOP and bytes over what this machine was seen to do."""

import ctypes
import hashlib
import os
import subprocess
import tempfile
from functools import reduce
from pathlib import Path
from typing import NamedTuple

from bench.cases import Case

GATES = {"lstm": 4, "gru": 3, "gru_reset_before": 3, "rnn_tanh": 1}
_SOURCE = Path(__file__).with_name("bounds.cpp")
_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
_WINDOW = 0.015  # seconds of one measurement
_WINDOWS = 3  # the highest of so many counts: threads may begin on one core, or lose theirs


class Rates(NamedTuple):
    """Peaks measured on some number of threads, a second."""

    flops: float
    flops_bfloat16: float
    read: dict[str, float]  # bytes, by level: L1, L2, L3, DRAM
    capacity: dict[str, int]  # bytes all threads together hold there

    def level(self, size: int) -> str:
        """The nearest level that holds this many bytes."""
        return next((name for name, room in self.capacity.items() if size <= room), "DRAM")


class Work(NamedTuple):
    """What a case cannot do without."""

    flop: float
    weight_bytes: int  # recurrent weights of one layer, read again at every step
    bytes: float  # read in all


class Bound(NamedTuple):
    """The larger of two times, and what it is made of."""

    seconds: float
    kind: str  # "FLOP" or the level that is read


def work(case: Case, mode: str, real_steps: int) -> Work:
    """Counts multiply-adds of the products and reads of recurrent weights; nothing else.

    Args:
        real_steps: steps summed over the batch, without those past a row's length.
    """
    gates, size = GATES[case.cell], 4 if case.dtype == "float32" else 2
    inputs = [case.inputs] + [case.hidden * case.directions] * (case.layers - 1)
    recurrent = gates * case.hidden * case.hidden
    projections = [gates * case.hidden * width for width in inputs]
    forward = 2.0 * real_steps * case.directions * (sum(projections) + recurrent * case.layers)
    # Backward: as much for the states and inputs, and as much again for the weights.
    passes = 2 if mode == "train" else 1
    flop = forward * (3 if mode == "train" else 1)
    weight_bytes = recurrent * size * case.directions
    read = float(weight_bytes * case.layers * case.steps)
    if case.steps == 1:
        read += sum(projections) * size * case.directions
        weight_bytes += max(projections) * size * case.directions
    return Work(flop, weight_bytes, read * passes)


def _peak(rates: Rates, dtype: str, precision: str) -> float:
    """The most FLOP a second that a type and torch's setting for float32 leave room for."""
    if dtype == "bfloat16":
        return max(rates.flops, rates.flops_bfloat16)
    if dtype == "float32" and precision == "high":
        # A number is the sum of two bfloat16: three of the four products count.
        return max(rates.flops, rates.flops_bfloat16 / 3)
    # float16 too: its sums are float32, which vectors of float16 do not make.
    return rates.flops


def bound(needed: Work, rates: Rates, dtype: str, precision: str = "highest") -> Bound:
    """The longer of the time for the FLOP and the time for the bytes."""
    level = rates.level(needed.weight_bytes)
    compute, memory = needed.flop / _peak(rates, dtype, precision), needed.bytes / rates.read[level]
    return Bound(compute, "FLOP") if compute >= memory else Bound(memory, level)


def fastest(first: Rates, second: Rates) -> Rates:
    """The higher of two measurements, rate by rate."""
    read = {name: max(rate, second.read[name]) for name, rate in first.read.items()}
    return Rates(
        max(first.flops, second.flops),
        max(first.flops_bfloat16, second.flops_bfloat16),
        read,
        first.capacity,
    )


def cache_sizes() -> dict[str, int]:
    """Bytes of the data caches that one core sees, by level."""
    sizes = {}
    for index in sorted(_CACHES.glob("index*")):
        if (index / "type").read_text().strip() != "Instruction":
            text = (index / "size").read_text().strip()
            sizes["L" + (index / "level").read_text().strip()] = int(text.rstrip("K")) * 1024
    return sizes or {"L1": 32 << 10, "L2": 1 << 20, "L3": 32 << 20}


def cpu_lines() -> list[str]:
    """What the kernel says of the processors."""
    return Path("/proc/cpuinfo").read_text().splitlines()


def _library() -> ctypes.CDLL:
    source = _SOURCE.read_bytes()
    cpu = next((line for line in cpu_lines() if line.startswith("flags")), "")
    key = hashlib.sha256(source + cpu.encode()).hexdigest()[:16]
    path = Path(tempfile.gettempdir()) / f"fused_rnn_bounds_{os.getuid()}_{key}.so"
    if not path.exists():
        compiler = os.environ.get("CXX", "c++")
        partial = path.with_suffix(f".{os.getpid()}")
        flags = ["-O3", "-march=native", "-std=c++17", "-shared", "-fPIC", "-pthread"]
        subprocess.run([compiler, *flags, str(_SOURCE), "-o", str(partial)], check=True)
        partial.rename(path)
    library = ctypes.CDLL(str(path))
    for name in ("flops", "flops_bfloat16", "read"):
        getattr(library, f"fused_rnn_bench_{name}").restype = ctypes.c_double
    return library


def measure(threads: int) -> Rates:
    """Measures all rates, each in a few windows of time; takes about half a second."""
    return reduce(fastest, (_measure_once(threads) for _ in range(_WINDOWS)))


def _measure_once(threads: int) -> Rates:
    library, caches = _library(), cache_sizes()
    window = ctypes.c_double(_WINDOW)
    # Half of what a thread may call its own, so that nothing else evicts it.
    share = {"L1": caches["L1"] // 2, "L2": caches["L2"] // 2}
    last = "L2"
    if "L3" in caches:
        share["L3"] = max(caches["L3"] // 2 // threads, caches["L2"] * 2)
        last = "L3"
    share["DRAM"] = caches[last] * 4 // threads
    read = {
        name: library.fused_rnn_bench_read(threads, ctypes.c_int64(size), window)
        for name, size in share.items()
    }
    capacity = {"L1": caches["L1"] * threads, "L2": caches["L2"] * threads}
    if "L3" in caches:
        capacity["L3"] = caches["L3"]
    flops = library.fused_rnn_bench_flops(threads, window)
    return Rates(flops, library.fused_rnn_bench_flops_bfloat16(threads, window), read, capacity)
