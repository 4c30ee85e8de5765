# SPDX-License-Identifier: MIT
"""The CUDA kernels and their peers on one GPU, case by case into a file that a next run resumes.

python -m bench.gpu quick|grid OUTDIR [--seconds N]
"""

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import quantiles
from typing import Any

import torch
from torch import Tensor, nn

from bench import machine, problems
from bench.cases import Case
from fused_rnn import backends, testing

_HIDDEN = (64, 128, 256, 512, 768, 1024, 2048)
_BATCH = (1, 8, 16, 64, 128)
_STEPS = (64, 1024, 1)
# Unrolled by the compiler: beyond, it takes minutes to compile.
_COMPILED = 64
# Enough to push everything out of the second-level cache.
_FLUSH_BYTES = 256 << 20
# A gate walks the same kernels on a shorter sequence, where float64 takes no minutes.
_GATE_STEPS = 64
_WARMUP, _SAMPLES, _SECONDS = 3, 30, 2.0

Run = Callable[[], list[Tensor]]


def _case(cell: str, batch: int, steps: int, hidden: int, dtype: str = "bfloat16") -> Case:
    return Case(cell, batch, steps, hidden, hidden, "the CUDA grid", "gpu", dtype)


def cases(part: str) -> list[Case]:
    """The cases of a part, the most telling first."""
    if part == "quick":
        shapes = ((16, 1024, 768), (16, 64, 128), (64, 64, 512), (1, 1024, 1024), (16, 1, 512))
        return [_case(cell, *shape) for shape in shapes for cell in ("lstm", "gru")]
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


def _call(
    layer: nn.Module, problem: problems.Problem, mode: str, extra: dict[str, Any] | None = None
) -> Run:
    """A call of a layer on the GPU that returns outputs and, in training, all gradients."""
    train = mode == "train"
    x = problem.x.cuda().requires_grad_(train)
    states = tuple(state.cuda().requires_grad_(train) for state in problem.states)
    hx = None if not states else states if len(states) == 2 else states[0]
    cotangents = [cotangent.cuda() for cotangent in problem.cotangents]
    leaves = [x, *states, *layer.parameters()]

    def run() -> list[Tensor]:
        with torch.set_grad_enabled(train):
            y, state = layer(x, hx, **(extra or {}))
        outputs = [y, *(state if isinstance(state, tuple) else (state,))]
        if not train:
            return outputs
        return [*outputs, *torch.autograd.grad(outputs, leaves, cotangents)]

    return run


def _graphed(run: Run) -> Run:
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = run()

    def replay() -> list[Tensor]:
        graph.replay()
        return results

    return replay


def providers(problem: problems.Problem, mode: str) -> Iterator[tuple[str, Callable[[], Run]]]:
    """Names, and what makes the call of each; ours first."""
    lengths = None if problem.lengths is None else problem.lengths.cuda()
    extra = {} if lengths is None else {"lengths": lengths}

    def ours(backend: str) -> Run:
        return _call(problems.fused(problem, backend).cuda(), problem, mode, extra)

    def peer(dtype: torch.dtype) -> Run:
        cast = problem._replace(
            x=problem.x.to(dtype),
            states=tuple(state.to(dtype) for state in problem.states),
            cotangents=tuple(cotangent.to(dtype) for cotangent in problem.cotangents),
        )
        layer = problems.make(problem.case).layer.to("cuda", dtype)
        layer.flatten_parameters()
        return _call(layer, cast, mode)

    def compiled() -> Run:
        layer: Any = torch.compile(problems.fused(problem, "reference").cuda(), dynamic=False)
        return _call(layer, problem, mode, extra)

    yield "fused_rnn", lambda: ours("native")
    yield "fused_rnn-graph", lambda: _graphed(ours("native"))
    if lengths is not None:
        return
    dtype = problem.x.dtype
    yield "torch.nn", lambda: peer(dtype)
    yield "torch.nn-graph", lambda: _graphed(peer(dtype))
    if dtype != torch.float16:
        yield "torch.nn-float16", lambda: peer(torch.float16)
        yield "torch.nn-float16-graph", lambda: _graphed(peer(torch.float16))
    if problem.case.steps == _COMPILED and problem.case.hidden in (128, 512):
        yield "torch.compile", compiled


def gate(case: Case, mode: str) -> float:
    """The worst error of our layer over its budget, on a sequence of at most 64 steps."""
    problem = problems.make(case._replace(steps=min(case.steps, _GATE_STEPS)))
    lengths = None if problem.lengths is None else problem.lengths.cuda()
    extra = {} if lengths is None else {"lengths": lengths}
    found = _call(problems.fused(problem, "native").cuda(), problem, mode, extra)()

    def reference(dtype: torch.dtype) -> list[Tensor]:
        cast = problem._replace(
            x=problem.x.to(dtype),
            states=tuple(state.to(dtype) for state in problem.states),
            cotangents=tuple(cotangent.to(dtype) for cotangent in problem.cotangents),
        )
        layer = problems.fused(problem, "reference", dtype).cuda()
        return _call(layer, cast, mode, extra)()

    worst = 0.0
    truth = reference(torch.float64)
    for mine, true, theirs in zip(found, truth, reference(problem.x.dtype), strict=True):
        budget = testing.error_budget(true, theirs, problem.x.dtype)
        error = testing.errors(mine, true)
        worst = max(worst, *(e / b for e, b in zip(error, budget, strict=True) if b or e))
    return worst


def timed(run: Run) -> dict[str, Any]:
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


def measure(case: Case, mode: str) -> Iterator[dict[str, Any]]:
    """A row for each provider: times, or the reason why there are none."""
    problem = problems.make(case)
    reverse = (0, 1) if case.directions == 2 else (0,)
    query = backends.Query(
        *(case.cell, problem.x.dtype, "cuda", reverse),
        shape=(case.steps, case.batch, case.hidden),
    )
    row: dict[str, Any] = {"case": case.name, "cell": case.cell, "mode": mode}
    row |= {"batch": case.batch, "steps": case.steps, "hidden": case.hidden, "dtype": case.dtype}
    row["plan"] = backends.explain(query, "native")
    row["error"] = gate(case, mode)
    for name, make in providers(problem, mode):
        if name.startswith("fused_rnn") and row["error"] > 1:
            yield row | {"provider": name, "reason": "beyond the tolerance, not timed"}
            continue
        try:
            yield row | {"provider": name} | timed(make())
        except RuntimeError as error:
            yield row | {"provider": name, "reason": str(error).splitlines()[0]}
        torch.cuda.empty_cache()


def run_part(part: str, folder: Path, seconds: float) -> None:
    """Measures what the file does not hold yet, until the time is over."""
    path = folder / f"{part}.jsonl"
    done = {(row["case"], row["mode"]) for row in _rows(path)}
    start, record = time.monotonic(), machine.record()
    for case in cases(part):
        for mode in ("infer", "train"):
            if (case.name, mode) in done:
                continue
            if time.monotonic() - start > seconds:
                print("time is over; run again to go on")
                return
            rows = [record | row for row in measure(case, mode)]
            with path.open("a") as file:
                file.writelines(json.dumps(row) + "\n" for row in rows)


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def table(path: Path) -> Iterator[str]:
    """A line for each case and mode, and the geometric means of the ratios at the end."""
    cells: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    for row in _rows(path):
        cells.setdefault((row["case"], row["mode"]), {})[row["provider"]] = row
    ratios: dict[tuple[str, str], list[float]] = {}
    yield f"{'case':<44} {'mode':<6} {'ours us':>10} {'torch.nn':>10} {'ratio':>6} {'error':>6}"
    for (case, mode), by in cells.items():
        ours, theirs = (by.get(name, {}) for name in ("fused_rnn", "torch.nn"))
        mine, other = ours.get("p50"), theirs.get("p50")
        if not mine or not other:
            reason = ours.get("reason") or theirs.get("reason", "no peer")
            yield f"{case:<44} {mode:<6} {reason}"
            continue
        if ours["steps"] > 1:
            ratios.setdefault((ours["cell"], mode), []).append(other / mine)
        times = f"{1e6 * mine:10.1f} {1e6 * other:10.1f} {other / mine:6.2f}"
        yield f"{case:<44} {mode:<6} {times} {ours['error']:6.2f}"
    for (cell, mode), found in ratios.items():
        mean = math.exp(sum(map(math.log, found)) / len(found))
        yield f"{cell} {mode}: torch.nn / ours, geometric mean of {len(found)}: {mean:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("part", choices=("quick", "grid"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seconds", type=float, default=400.0, help="stop after these")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    run_part(arguments.part, arguments.folder, arguments.seconds)
    print(*table(arguments.folder / f"{arguments.part}.jsonl"), sep="\n")


if __name__ == "__main__":
    main()
