# SPDX-License-Identifier: MIT
"""What can be told without a GPU of the benchmark that needs one: its plan, gate and tables."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from bench import gpu, gpu_providers, gpu_report, machine, peers, problems, publish
from bench.cases import Case
from bench.harness import empty_row
from bench.problems import Problem
from bench.providers import Call, Unavailable
from bench.rows import Row
from fused_rnn import extensions
from fused_rnn.backends.backend import Query

TIMES = {"p20": 1e-3, "p50": 2e-3, "p80": 3e-3, "peak_bytes": 100}
SMALL = Case("gru", 3, 5, 8, 16, "test", "gpu", "bfloat16")
STEP = SMALL._replace(cell="lstm", steps=1, group="step", modes=("step", "train"))


def row(case: Case, mode: str, provider: str, seconds: float | None, **more: Any) -> Row:
    times = dict.fromkeys(("p20", "p50", "p80"), seconds)
    return machine.record() | empty_row(case, mode, provider) | times | more


@pytest.mark.parametrize("part", gpu.PARTS)
def test_every_task_is_named_once(part: str) -> None:
    found = [(t.case.name, t.mode, name) for t in gpu.tasks(part) for name in t.providers]
    assert len(set(found)) == len(found)
    names = {name for *_, name in found}
    assert part != "grid" or names == set(gpu_providers.BUILDS)


def test_the_grid_is_whole() -> None:
    plain = {(c.cell, c.hidden, c.batch, c.steps) for c in gpu.cases("grid")}
    assert len(plain) == 3 * 7 * 5 * 3
    assert {c.dtype for c in gpu.cases("grid")} == {"bfloat16", "float16", "float32"}


@pytest.mark.parametrize("case", [SMALL, STEP], ids=lambda case: case.cell)
def test_each_provider_has_times_or_a_reason(case: Case) -> None:
    names = tuple(name for name in gpu_providers.BUILDS if name != "torch.compile")
    for mode in case.modes:
        rows = gpu.measure(gpu.Task(case, mode, names), "cpu", lambda run: TIMES)
        by = {found["provider"]: found for found in rows}
        assert set(by) == set(names)
        assert all((r["p50"] is None) == (r["reason"] is not None) for r in by.values())
        assert by["torch.nn"]["p50"] and by["torch.nn-float16"]["p50"]
        assert (by["torch.nn-cell"]["p50"] is not None) == (case.steps == 1)
        assert (by["fused_rnn"]["p50"] is None) == (extensions.why_unavailable() is not None)
        assert "its kernels run on CUDA devices" in by["fused_rnn-triton"]["reason"]
        assert "CUDA graphs" in by["torch.nn-graph"]["reason"]


@pytest.mark.parametrize(("name", "wrong"), [("fused_rnn", 1.2), ("torch.nn", 2.0)])
def test_no_time_without_a_right_result(
    name: str, wrong: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(problem: Problem, mode: str) -> Call:
        call = gpu_providers.BUILDS["torch.nn-float16"](problem, mode)
        return call._replace(tensors=lambda results: [t.detach() * wrong for t in results])

    monkeypatch.setitem(gpu_providers.BUILDS, name, build)
    (found,) = gpu.measure(gpu.Task(SMALL, "infer", (name,)), "cpu", lambda run: TIMES)
    assert found["p50"] is None and found["reason"].startswith("wrong: ")


def test_rows_say_which_kernels_ran(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[None] = []
    monkeypatch.setattr(extensions, "check_waits", lambda: asked.append(None))
    monkeypatch.setattr(
        extensions, "last_plan", lambda backward: f"tier {('grid', 'cluster')[backward]}"
    )
    monkeypatch.setattr(extensions, "fallbacks", lambda: {"tier cluster": 2})
    query = Query("gru", torch.bfloat16, "cuda")
    found = gpu._ran(query, "native")
    assert (
        found == {"ran": ["tier grid", "tier cluster"], "fallbacks": {"tier cluster": 2}} and asked
    )
    assert not gpu._ran(query, "triton") and not gpu._ran(query._replace(device="cpu"), "native")


def test_a_file_is_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("torch.nn", "torch.nn-cell")
    monkeypatch.setattr(gpu, "tasks", lambda part: [gpu.Task(SMALL, "infer", names)])
    path = tmp_path / "gpu-first.jsonl"
    path.write_text(json.dumps(row(SMALL, "infer", "torch.nn", 1e-3)) + "\n")
    asked: list[gpu.Task] = []

    def measure(task: gpu.Task) -> list[Row]:
        asked.append(task)
        return [row(task.case, task.mode, name, 2e-3) for name in task.providers]

    monkeypatch.setattr(gpu, "measure", measure)
    for _ in range(2):
        gpu.run_part("first", path, 60)
    assert [task.providers for task in asked] == [("torch.nn-cell",)]
    gpu.run_part("first", tmp_path / "gpu-late.jsonl", -1)
    assert len(asked) == 1


def recorded() -> list[Row]:
    rows = []
    for cell, times in (("lstm", (1.0, 2.0, 4.0)), ("gru", (2.0, 1.0, 1.0))):
        case = SMALL._replace(cell=cell)
        for name, seconds in zip(("fused_rnn", "fused_rnn-triton", "torch.nn"), times, strict=True):
            rows.append(row(case, "infer", name, seconds, peak_bytes=int(100 * seconds)))
    rows.append(row(SMALL._replace(cell="lstm"), "infer", "flashrnn-triton", 6.0))
    rows.append(row(STEP, "step", "torch.nn", 3.0))
    rows.append(row(STEP, "step", "torch.nn-cell", 2.0))
    rows.append(row(STEP, "step", "fused_rnn", 1.0))
    rows.append(row(STEP, "step", "fused_rnn-triton", None, reason="failed: RuntimeError: no"))
    rows.append(row(SMALL, "first call", "fused_rnn-triton", 3.25))
    return rows


def test_means_are_those_of_the_targets() -> None:
    lines = {(line[0], line[1], line[2]): line[3:] for line in gpu_report.means(recorded())}
    both = "LSTM and GRU, H ≤ 1,024 × torch.nn"
    assert lines["CUDA", both, "inference"] == ["1.41", "**0.50 loss**", "2.00", "2"]
    assert lines["Triton", both, "inference"][0] == "1.41"
    assert lines["CUDA", "T = 1 × torch.nn", "one step"][0] == "2.00"
    assert lines["Triton", "LSTM × FlashRNN's Triton kernels", "inference"][0] == "3.00"
    assert ("Triton", "T = 1 × torch.nn", "one step") not in lines


def test_tables_say_what_is_missing_and_what_ran() -> None:
    rows = recorded()
    rows.append(row(STEP, "step", "fused_rnn-graph", None, reason="failed: no capture"))
    rows[0] |= {"ran": ["tier grid, 8 blocks: it fits", ""], "fallbacks": {"tier cluster": 2}}
    text = "\n".join(gpu_report.table(rows))
    assert (
        "ran: tier grid, 8 blocks\n" in text
        and "tier cluster was refused as too large 2 times" in text
    )
    assert "fused_rnn-graph: failed: no capture" in text
    assert "fused_rnn-triton: failed: RuntimeError: no" in text
    assert "3.2 s until its first results" in text
    full = gpu_report.full(recorded())
    assert "- fused_rnn-triton: failed: RuntimeError: no (1)" in full
    assert "| gpu/lstm-B3-T5-I8-H16-bfloat16 | inference |" in full


def test_what_has_run_is_no_longer_owed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publish, "RESULTS", tmp_path)
    assert "No GPU has run" in publish.gpu_section() and not publish.reports()
    served = {"fused_rnn": "native", "fused_rnn-triton": "triton"}
    rows = [found | {"served_by": served.get(found["provider"])} for found in recorded()]
    rows = [found for found in rows if found["provider"] != "fused_rnn-triton"]
    (tmp_path / "gpu-first.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    table = publish.support_table()
    assert "compiled and emulated" not in table and "compiled and interpreted" in table
    assert "[gpu-first](bench/results/gpu-first.md)" in publish.gpu_section()
    assert list(publish.reports()) == [tmp_path / "gpu-first.md"]


@pytest.mark.parametrize("steps", [1, 5])
@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn_tanh"])
def test_flashrnn_is_asked_for_the_case(cell: str, steps: int) -> None:
    """With its plain PyTorch backend, where its wheel is at hand."""
    problem = problems.make(SMALL._replace(cell=cell, steps=steps, dtype="float32"))
    try:
        call = peers.flashrnn(problem, "train", "vanilla")
    except Unavailable as reason:
        pytest.skip(f"FlashRNN {reason}")
    assert problems.Gate(problem, "train").worst(call.tensors(call.run())) <= 1
