# SPDX-License-Identifier: MIT
"""The providers of one case, gated and then timed in turns; runs in a process of its own."""

import ctypes
import gc
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from bench import bounds, peers, problems
from bench.cases import Case
from bench.package import extensions
from bench.providers import Call, NoPeer, Unavailable
from bench.rows import is_ours

# A sample lasts at least this long, so that the clock's own cost does not show.
_SAMPLE = 1e-3
# Between two providers: thread pools stop spinning before the next one is timed.
_PAUSE = 3e-3
# A call shorter than this is made once untimed before each sample, to find its data in the caches.
_SHORT = 0.05
# A peer is timed, and its table says so, up to this many times our tolerance: it computes the
# same function less exactly. Beyond, it computes another one. Our own layers get no such leave.
LEAVE = 16


class Entry(NamedTuple):
    """What is known of a provider before the race."""

    provider: str
    served_by: str | None
    error: float | None  # worst error over its budget
    reason: str | None  # why it is not timed
    instruction_set: str | None


def _onednn_path(run: Callable[[], Any]) -> str:
    """Which recurrent primitive of oneDNN a call runs, from oneDNN's own report."""
    sys.stdout.flush()
    with tempfile.TemporaryFile() as report:
        kept = os.dup(1)
        os.dup2(report.fileno(), 1)
        try:
            with torch.backends.mkldnn.verbose(torch.backends.mkldnn.VERBOSE_ON):
                run()
        finally:
            os.dup2(kept, 1)
            os.close(kept)
        report.seek(0)
        fields = [line.split(",") for line in report.read().decode(errors="replace").splitlines()]
    at = [line.index("rnn") for line in fields if "rnn" in line and "exec" in line]
    found = [line for line in fields if "rnn" in line and "exec" in line]
    paths = sorted({line[place + 1] for line, place in zip(found, at, strict=True)})
    return f"oneDNN {', '.join(paths)}" if paths else "step by step"


class Race:
    """Builds the providers, lets them through the gate, and times those that pass."""

    def __init__(self, case: Case, mode: str, names: list[str]) -> None:
        self._problem, self._mode = problems.make(case), mode
        with problems.precision_of(case):
            self._gate = problems.Gate(self._problem, mode)
        self._runs: dict[str, tuple[Callable[[], Any], int, bool]] = {}
        self._rates = bounds.measure(case.threads)
        with torch.inference_mode(mode != "train"), problems.precision_of(case):
            entries = [self._enter(name) for name in names]
        self.entries = [entry for entry in entries if entry is not None]

    def _enter(self, name: str) -> Entry | None:
        ours = is_ours(name)
        isa = (
            extensions.instruction_set() if ours and extensions.why_unavailable() is None else None
        )
        try:
            call = peers.PROVIDERS[name](self._problem, self._mode)
            gate = self._gate if call.solves is None else problems.Gate(call.solves, self._mode)
            error = gate.worst(call.tensors(call.run()))
        except NoPeer:
            return None
        except Unavailable as unavailable:
            return Entry(name, None, None, str(unavailable), isa)
        except (RuntimeError, TypeError, ValueError) as failure:
            reason = f"failed: {type(failure).__name__}: {str(failure).splitlines()[0][:200]}"
            return Entry(name, None, None, reason, isa)
        served_by = call.served_by
        if name == "torch.nn":
            served_by = f"torch, {_onednn_path(call.run)}"
        # `not <=`: an error that is NaN fails too.
        if not error <= (1 if ours else LEAVE):
            return Entry(name, served_by, error, f"wrong: {error:.3g} times the tolerance", isa)
        self._runs[name] = self._warm_up(call)
        return Entry(name, served_by, error, None, isa)

    def _warm_up(self, call: Call) -> tuple[Callable[[], Any], int, bool]:
        best, spent = float("inf"), 0.0
        while spent < 0.1 or best == float("inf"):
            start = time.perf_counter()
            call.run()
            once = time.perf_counter() - start
            best, spent = min(best, once), spent + once
        return call.run, max(1, round(_SAMPLE / best)), best < _SHORT

    def round(self, number: int) -> dict[str, float]:
        """Seconds of one call of each provider; who comes first changes from round to round."""
        names = list(self._runs)
        first = number % max(1, len(names))
        gc.collect()
        gc.disable()
        precision = problems.precision_of(self._problem.case)
        with torch.inference_mode(self._mode != "train"), precision:
            times = {name: self._sample(name) for name in names[first:] + names[:first]}
        gc.enable()
        return times

    def _sample(self, name: str) -> float:
        run, repeats, short = self._runs[name]
        time.sleep(_PAUSE)
        if short:
            run()
        start = time.perf_counter()
        for _ in range(repeats):
            run()
        return (time.perf_counter() - start) / repeats

    def bound(self) -> tuple[bounds.Bound, bounds.Rates]:
        """The case's bound from the better of the rates before and after the race."""
        case = self._problem.case
        rates = bounds.fastest(self._rates, bounds.measure(case.threads))
        needed = bounds.work(case, self._mode, self._problem.real_steps)
        return bounds.bound(needed, rates, case.dtype, case.precision), rates


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field}")


def peak_bytes(case: Case, mode: str, name: str) -> int | None:
    """Resident memory that the first call of a provider adds at its peak.

    The kernel's own count of pages, so that every allocator is seen. A call on one step of one
    row comes first: code and threads are there before the count begins.
    """
    with torch.inference_mode(mode != "train"), problems.precision_of(case):
        try:
            with torch.inference_mode(False):
                small = problems.make(case._replace(batch=1, steps=1))
                full = problems.make(case)
            peers.PROVIDERS[name](small, mode).run()
            call = peers.PROVIDERS[name](full, mode)
        except Unavailable:
            return None
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
        before = _status("VmRSS")
        results = call.run()
        peak = _status("VmHWM") - before
        del results
    return peak
