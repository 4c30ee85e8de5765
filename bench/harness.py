# SPDX-License-Identifier: MIT
"""How a case is measured: in a fresh process, after a gate, all providers taking turns."""

import multiprocessing
import os
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import quantiles
from typing import Any, NamedTuple

from bench.cases import Case
from bench.machine import ROOT
from bench.rows import Row, is_ours

# Compared by memory: those that allocate in the same way, and need no compilation.
_MEMORY = ("fused_rnn", "torch.nn", "torch.nn-loop", "torch.nn-pieces")
# Backends that are this package's own work; a row served by another is a failure.
KERNELS = ("native", "triton")


class Contestant(NamedTuple):
    """A source tree, the providers taken from it, and the name its own layers go by."""

    root: Path
    providers: tuple[str, ...]
    label: str = "fused_rnn"


class Effort(NamedTuple):
    """How long to go on."""

    rounds: int = 7  # at least
    most: int = 31
    seconds: float = 6.0  # after the least number of rounds, stop when these are over
    memory: bool = True


QUICK = Effort(rounds=2, most=2, seconds=0.0, memory=False)


def _enter_process(root: Path, threads: int) -> None:
    """Makes this process one of `threads` cores with the package of `root`."""
    sys.path.insert(0, str(root))
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    import torch

    torch.set_num_threads(threads)
    import fused_rnn

    if Path(fused_rnn.__file__).resolve().parents[1] != root.resolve():
        raise RuntimeError(f"fused_rnn: expected the one in {root}, got {fused_rnn.__file__}")


def _serve_race(channel: Connection, case: Case, mode: str, contestant: Contestant) -> None:
    _enter_process(contestant.root, case.threads)
    from bench.race import Race

    race = Race(case, mode, list(contestant.providers))
    channel.send(race.entries)
    for number in iter(channel.recv, None):
        channel.send(race.round(number))
    channel.send(race.bound())


def _serve_memory(
    channel: Connection, case: Case, mode: str, contestant: Contestant, provider: str
) -> None:
    _enter_process(contestant.root, case.threads)
    from bench.race import peak_bytes

    channel.send(peak_bytes(case, mode, provider))


class Worker:
    """A child process and the channel to it."""

    def __init__(self, target: Any, *arguments: Any) -> None:
        # A server that has torch loaded and runs nothing: each child starts in no time, clean.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["torch"])
        self._channel, theirs = context.Pipe()
        self._process = context.Process(target=target, args=(theirs, *arguments), daemon=True)
        self._process.start()
        theirs.close()

    def ask(self, message: Any) -> Any:
        self._channel.send(message)
        return self.answer()

    def answer(self) -> Any:
        """The next message of the child.

        Raises:
            ChildProcessError: it ended without one.
        """
        try:
            return self._channel.recv()
        except EOFError:
            self._process.join()
            code = self._process.exitcode
            raise ChildProcessError(f"the process ended with code {code}") from None

    def close(self) -> None:
        self._channel.close()
        self._process.join(10)
        if self._process.is_alive():
            self._process.kill()


def empty_row(case: Case, mode: str, provider: str) -> Row:
    """A row of nothing but its name: what stands there when a case could not be measured."""
    unknown = ("served_by", "instruction_set", "error", "reason", "failure", "peak_bytes")
    return {
        "case": case.name,
        "group": case.group,
        "cell": case.cell,
        "shape": case.shape,
        "batch": case.batch,
        "steps": case.steps,
        "inputs": case.inputs,
        "hidden": case.hidden,
        "mode": mode,
        "provider": provider,
        "metric": "time of a call",
        "unit": "s",
        "dtype": case.dtype,
        "precision": case.precision,
        "threads": case.threads,
        "rounds": 0,
        **dict.fromkeys(("p20", "p50", "p80", "bound", "bound_kind", "rates", *unknown)),
    }


def _rounds(workers: list[Worker], effort: Effort) -> dict[tuple[int, str], list[float]]:
    """Samples of each contestant's providers, by (index of the worker, provider)."""
    samples: dict[tuple[int, str], list[float]] = {}
    start, number = time.monotonic(), 0
    while number < effort.rounds or (
        number < effort.most and time.monotonic() - start < effort.seconds
    ):
        order = range(len(workers)) if number % 2 == 0 else reversed(range(len(workers)))
        for index in order:
            for provider, seconds in workers[index].ask(number).items():
                samples.setdefault((index, provider), []).append(seconds)
        number += 1
    return samples


def peak(case: Case, mode: str, contestant: Contestant, provider: str) -> int | None:
    """Bytes that one call of a provider adds at its peak, in a process of its own."""
    worker = Worker(_serve_memory, case, mode, contestant, provider)
    try:
        return worker.answer()
    finally:
        worker.close()


def measure(case: Case, mode: str, contestants: list[Contestant], effort: Effort) -> list[Row]:
    """One row for each provider: its times, or the reason why there are none.

    Raises:
        ChildProcessError: a process that runs the case died.
    """
    workers = [Worker(_serve_race, case, mode, contestant) for contestant in contestants]
    try:
        entered = [worker.answer() for worker in workers]
        samples = _rounds(workers, effort)
        bounds = [worker.ask(None) for worker in workers]
    finally:
        for worker in workers:
            worker.close()
    rows = []
    for index, contestant in enumerate(contestants):
        bound, rates = bounds[index]
        for entry in entered[index]:
            own = is_ours(entry.provider)
            label = contestant.label if entry.provider == "fused_rnn" else entry.provider
            row = empty_row(case, mode, label)
            row |= entry._asdict() | {"provider": row["provider"]}
            row |= {"bound": bound.seconds, "bound_kind": bound.kind, "rates": rates._asdict()}
            row["failure"] = entry.reason or _not_ours(entry.served_by) if own else None
            times = samples.get((index, entry.provider), [])
            row |= {"rounds": len(times), **_spread(times)}
            if times and effort.memory and entry.provider in _MEMORY and mode != "step":
                row["peak_bytes"] = peak(case, mode, contestant, entry.provider)
            rows.append(row)
    return rows


def _not_ours(served_by: str | None) -> str | None:
    if served_by in KERNELS:
        return None
    return f"served by {served_by}, which is not a kernel of this package"


def _spread(times: list[float]) -> Row:
    names = ("p20", "p50", "p80")
    if not times:
        return dict.fromkeys(names)
    if len(times) == 1:
        return dict.fromkeys(names, times[0])
    cuts = quantiles(times, n=10, method="inclusive")
    return dict(zip(names, (cuts[1], cuts[4], cuts[7]), strict=True))


def this_tree(providers: list[str]) -> Contestant:
    """The providers of the checkout that this file is in."""
    return Contestant(ROOT, tuple(providers))
