# SPDX-License-Identifier: MIT
"""Our GPU kernels and their peers, case by case into a file that a next run resumes.

python -m bench.gpu first|second|grid OUTDIR [--seconds N]
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import quantiles
from typing import Any, NamedTuple

import torch

from bench import first_call, gpu_report, machine, problems, rehearsal
from bench.cases import Case
from bench.gpu_providers import BUILDS, COMPILED, EAGER, FAILURES, GRAPHS, dtype_of
from bench.harness import empty_row
from bench.problems import Gate, Problem
from bench.providers import Call, NoPeer, Unavailable, query_of
from bench.race import LEAVE
from bench.rows import Row
from fused_rnn import extensions
from fused_rnn.backends import choice
from fused_rnn.backends.backend import Query

_HIDDEN = (64, 128, 256, 512, 768, 1024, 2048)
_BATCH = (1, 8, 16, 64, 128)
_STEPS = (64, 1024, 1)
# B, T, H of the first rows, and of the cases that are worth minutes of compilation.
_FIRST = ((16, 64, 128), (64, 64, 512), (16, 1024, 768))
# Enough to push everything out of the second-level cache.
_FLUSH_BYTES = 256 << 20
# A gate walks the same kernels on a shorter sequence, where float64 takes no minutes.
_GATE_STEPS = 64
_WARMUP, _SAMPLES, _SECONDS = 3, 30, 2.0

PARTS = ("first", "second", "grid")

Timer = Callable[[Callable[[], Any]], dict[str, Any]]


class Task(NamedTuple):
    """What is measured and written at once."""

    case: Case
    mode: str
    providers: tuple[str, ...]


def _case(cell: str, batch: int, steps: int, hidden: int, dtype: str = "bfloat16") -> Case:
    step = steps == 1
    case = Case(
        cell, batch, steps, hidden, hidden, "the GPU grid", "step" if step else "gpu", dtype
    )
    return case._replace(modes=("step", "train")) if step else case


def cases(part: str) -> list[Case]:
    """The cases of a part, the most telling first."""
    if part != "grid":
        return [_case(cell, *shape) for shape in _FIRST for cell in ("lstm", "gru")]
    grid = [
        _case(cell, batch, steps, hidden)
        for steps in _STEPS
        for hidden in _HIDDEN
        for batch in _BATCH
        for cell in ("lstm", "gru", "rnn_tanh")
    ]
    named = [_case("lstm", 16, 64, 512, dtype) for dtype in ("float16", "float32")]
    both = _case("lstm", 16, 64, 256)._replace(directions=2)
    return [*grid, *named, both, both._replace(directions=1, ragged="lengths")]


def tasks(part: str) -> Iterator[Task]:
    """What a part measures; of the grid first calls, then all that is soon ready, then the rest."""
    if part != "grid":
        # Several steps, which no cell takes.
        names = EAGER if part == "first" else GRAPHS
        names = tuple(name for name in names if "cell" not in name)
        yield from (Task(case, mode, names) for case in cases(part) for mode in case.modes)
        return
    for hidden in (128, 1024):
        yield Task(_case("lstm", 16, 64, hidden), "first call", ("fused_rnn-triton",))
    chosen = cases(part)
    for case in chosen:
        # A case in float16 has torch.nn in float16 already.
        twice = case.dtype == "float16"
        names = tuple(n for n in BUILDS if n not in COMPILED and not (twice and "float16" in n))
        yield from (Task(case, mode, names) for mode in case.modes)
    for case in chosen:
        if (case.batch, case.steps, case.hidden) in _FIRST and case.layers == 1:
            yield from (Task(case, mode, COMPILED) for mode in case.modes)


def timed(run: Callable[[], Any]) -> dict[str, Any]:
    """p20, p50, p80 in seconds by CUDA events, caches flushed before each; and peak bytes."""
    for _ in range(_WARMUP):
        run()
    torch.cuda.synchronize()
    held = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    run()
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated() - held
    flush = torch.empty(_FLUSH_BYTES, dtype=torch.int8, device="cuda")
    samples: list[float] = []
    start = time.monotonic()
    while len(samples) < 5 or (len(samples) < _SAMPLES and time.monotonic() - start < _SECONDS):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        flush.zero_()
        begin.record()
        run()
        end.record()
        end.synchronize()
        samples.append(begin.elapsed_time(end) / 1e3)
    cuts = quantiles(samples, n=10, method="inclusive")
    return {"p20": cuts[1], "p50": cuts[4], "p80": cuts[7], "peak_bytes": peak}


class _Desk:
    """A task's tensors and truths, made when first asked for and shared by its providers."""

    def __init__(self, task: Task, device: str) -> None:
        self._case, self._mode, self._device = task.case, task.mode, device
        self._problems: dict[tuple[int, str], Problem] = {}
        self._gates: dict[str, Gate] = {}

    def problem(self, steps: int, dtype: str) -> Problem:
        """The problem cut to some steps, in a type."""
        key = steps, dtype
        if key not in self._problems:
            made = problems.make(rehearsal.shrunk(self._case._replace(steps=steps)))
            self._problems[key] = made.to(self._device, getattr(torch, dtype))
        return self._problems[key]

    def query(self) -> Query:
        """What the choice of a backend for the case depends on."""
        return query_of(self.problem(self._case.steps, self._case.dtype))

    def call(self, name: str) -> tuple[Call, float]:
        """A provider's call of the whole case, and its worst error over its budget."""
        build, dtype = BUILDS[name], dtype_of(name, self._case.dtype)
        short = self.problem(min(self._case.steps, _GATE_STEPS), dtype)
        call = build(short, self._mode)
        if dtype not in self._gates:
            self._gates[dtype] = Gate(short, self._mode)
        error = self._gates[dtype].worst(call.tensors(call.run()))
        whole = self.problem(self._case.steps, dtype)
        return (call if whole is short else build(whole, self._mode)), error


def _ran(query: Query, served_by: str) -> Row:
    """Which CUDA kernels ran last, and how often others did that were planned too large.

    Raises:
        RuntimeError: a wait of theirs ran out.
    """
    if (served_by, query.device) != ("native", "cuda"):
        return {}
    extensions.check_waits()
    ran = [extensions.last_plan(backward) for backward in (False, True)]
    return {"ran": ran, "fallbacks": extensions.fallbacks()}


def _measured(desk: _Desk, name: str, timer: Timer) -> Row:
    """What is found of one provider."""
    try:
        call, error = desk.call(name)
        ours = name.startswith("fused_rnn")
        # `not <=`: an error that is NaN fails too.
        if not error <= (1 if ours else LEAVE):
            return {"error": error, "reason": f"wrong: {error:.3g} times the tolerance"}
        found = {"served_by": call.served_by, "error": error}
        if ours:
            found["plan"] = choice.explain(desk.query(), call.served_by)
        return found | timer(call.run) | _ran(desk.query(), call.served_by)
    except NoPeer as why:
        return {"reason": str(why), "no_peer": True}
    except Unavailable as why:
        return {"reason": str(why)}
    except FAILURES as failure:
        first = (str(failure).splitlines() or [""])[0][:200]
        return {"reason": f"failed: {type(failure).__name__}: {first}"}


_TIMER = rehearsal.timer(timed)


def measure(task: Task, device: str = rehearsal.DEVICE, timer: Timer = _TIMER) -> Iterator[Row]:
    """A row for each provider: times, or the reason why there are none.

    Raises:
        RuntimeError: the device no longer answers, after the row of who left it so.
    """
    if task.mode == "first call":
        row = empty_row(task.case, task.mode, *task.providers)
        try:
            seconds = first_call.measure(task.case.cell, task.case.hidden)
            yield row | dict.fromkeys(("p20", "p50", "p80"), seconds)
        except RuntimeError as failure:
            yield row | {"reason": str(failure)}
        return
    desk = _Desk(task, device)
    for name in task.providers:
        with torch.set_grad_enabled(task.mode == "train"):
            found = _measured(desk, name, timer)
        yield empty_row(task.case, task.mode, name) | {"no_peer": False} | found
        if torch.device(device).type == "cuda":
            torch.cuda.synchronize()
            torch.cuda.empty_cache()


def run_part(part: str, path: Path, seconds: float) -> None:
    """Measures what the file does not hold yet, until the time is over."""
    done = {(row["case"], row["mode"], row["provider"]) for row in gpu_report.load([path])}
    start, record = time.monotonic(), machine.record()
    for task in tasks(part):
        names = [n for n in task.providers if (task.case.name, task.mode, n) not in done]
        if names and time.monotonic() - start > seconds:
            print("time is over; run again to go on")
            return
        for row in measure(task._replace(providers=tuple(names))) if names else ():
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record | row) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seconds", type=float, default=400.0, help="stop after these")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    run_part(arguments.part, arguments.folder / f"gpu-{arguments.part}.jsonl", arguments.seconds)


if __name__ == "__main__":
    main()
