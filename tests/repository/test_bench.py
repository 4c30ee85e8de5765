# SPDX-License-Identifier: MIT
"""The benchmark is honest: gated, counted right, and losses and failures are called so."""

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from recorded_rows import ALL, RATES, row, write
from torch import Tensor

from bench import bounds, cases, charts, harness, machine, peers, problems, race, report, run
from bench.cases import Case
from bench.comparison import compare
from bench.providers import Call, Unavailable
from bench.rows import is_ours, load
from fused_rnn import extensions

needs_compiler = pytest.mark.skipif(
    shutil.which(os.environ.get("CXX", "c++")) is None, reason="no C++ compiler"
)
needs_linux = pytest.mark.skipif(
    sys.platform != "linux", reason="cores are taken and memory is read as on Linux"
)


def kinds() -> list[Case]:
    """Every kind of case once, at a small size."""
    found: dict[str, Case] = {}
    for case in ALL:
        if not case.group.startswith(("scale", "one-thread")):
            found.setdefault(case.shrunk().name, case.shrunk())
    return list(found.values())


@pytest.fixture
def no_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "measure", lambda threads: RATES)


def test_cases_are_named_once_and_have_reasons() -> None:
    names = [case.name for case in ALL]
    assert len(set(names)) == len(names)
    assert all(case.reason for case in ALL)
    assert sum(case.group == "core" for case in ALL) == 10 * len(cases.CELLS)


def test_filter_and_threads_select() -> None:
    chosen = cases.select("^core/gru-B7", threads=1)
    assert [case.name for case in chosen] == ["core/gru-B7-T50-I33-H77-1threads"]


def test_every_provider_can_be_asked_for() -> None:
    assert tuple(peers.PROVIDERS) == run.PROVIDERS


# torch.compile takes seconds a case, and is the reference, tested elsewhere.
@pytest.mark.parametrize("name", [name for name in run.PROVIDERS if name != "torch.compile"])
@pytest.mark.parametrize("case", kinds(), ids=lambda case: case.name)
def test_provider_computes_the_case_or_says_why_not(case: Case, name: str) -> None:
    problem = problems.make(case)
    for mode in case.modes:
        with torch.inference_mode(mode != "train"), problems.precision_of(case):
            try:
                call = peers.PROVIDERS[name](problem, mode)
                results = call.tensors(call.run())
            except Unavailable as reason:
                assert len(str(reason)) > 10
                continue
            gate = problems.Gate(call.solves or problem, mode)
        assert gate.worst(results) <= (1 if is_ours(name) else race.LEAVE)


def wrong(change: Any) -> Any:
    """A provider that is torch.nn but for one change of its results."""

    def build(problem: problems.Problem, mode: str) -> Call:
        call = peers.PROVIDERS["torch.nn"](problem, mode)

        def tensors(results: Any) -> list[Tensor]:
            return change([tensor.clone() for tensor in call.tensors(results)])

        return call._replace(tensors=tensors)

    return build


def scaled(results: list[Tensor]) -> list[Tensor]:
    return [results[0] * 1.01, *results[1:]]


def with_nan(results: list[Tensor]) -> list[Tensor]:
    results[-1].view(-1)[0] = math.nan
    return results


def cut(results: list[Tensor]) -> list[Tensor]:
    return [results[0][1:], *results[1:]]


@pytest.mark.usefixtures("no_rates")
@pytest.mark.parametrize("change", [scaled, with_nan, cut])
@pytest.mark.parametrize("name", ["fused_rnn", "jax"])
@pytest.mark.parametrize("mode", ["infer", "train"])
def test_no_time_without_a_right_result(
    mode: str, name: str, change: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(peers.PROVIDERS, name, wrong(change))
    contest = race.Race(ALL[0].shrunk(), mode, [name, "torch.nn"])
    assert contest.entries[0].reason is not None
    assert list(contest.round(0)) == ["torch.nn"]


@pytest.mark.usefixtures("no_rates")
@pytest.mark.parametrize(("name", "timed"), [("fused_rnn", False), ("jax", True)])
def test_only_a_peer_may_be_a_little_inexact(
    name: str, timed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(problems.Gate, "worst", lambda self, results: 2.0)
    monkeypatch.setitem(peers.PROVIDERS, name, peers.PROVIDERS["torch.nn"])
    contest = race.Race(ALL[0].shrunk(), "infer", [name])
    assert (name in contest.round(0)) == timed
    assert contest.entries[0].error == 2.0


@pytest.mark.usefixtures("no_rates")
def test_providers_take_turns_at_being_first() -> None:
    contest = race.Race(ALL[0].shrunk(), "infer", ["fused_rnn", "torch.nn"])
    orders = [list(contest.round(number)) for number in range(2)]
    assert orders == [["fused_rnn", "torch.nn"], ["torch.nn", "fused_rnn"]]


def test_work_is_counted_as_by_hand() -> None:
    case = Case("lstm", 2, 10, 8, 16, "test")
    forward = 2 * (2 * 10) * (4 * 16) * (8 + 16)
    assert bounds.work(case, "infer", 20) == (forward, 4 * 16 * 16 * 4, 10 * 4 * 16 * 16 * 4)
    assert bounds.work(case, "train", 20).flop == 3 * forward
    assert bounds.work(case, "infer", 15).flop == forward * 15 / 20
    two = case._replace(cell="gru", layers=2, directions=2, dtype="bfloat16")
    flop = 2 * 20 * (3 * 16) * 2 * ((8 + 16) + (32 + 16))
    assert bounds.work(two, "infer", 20) == (flop, 3 * 16 * 16 * 2 * 2, 10 * 2 * 3 * 16 * 16 * 4)
    one = case._replace(steps=1)
    assert bounds.work(one, "step", 2).bytes == 4 * 16 * (8 + 16) * 4


def test_bound_is_the_longer_time() -> None:
    assert bounds.bound(bounds.Work(2e9, 1 << 20, 1e6), RATES, "float32") == (1e-2, "FLOP")
    assert bounds.bound(bounds.Work(2e9, 1 << 20, 1e6), RATES, "bfloat16") == (5e-3, "FLOP")
    assert bounds.bound(bounds.Work(1e3, 16 << 20, 1e9), RATES, "float32") == (1e-2, "L3")
    assert bounds.bound(bounds.Work(1e3, 64 << 20, 1e9), RATES, "float32") == (5e-2, "DRAM")


@needs_compiler
def test_rates_are_measured() -> None:
    rates = bounds.measure(1)
    assert rates.flops > 1e8
    assert all(rate > 1e7 for rate in rates.read.values())
    # Vectors do twice the float32 rate, tiles eight times and more.
    assert machine.name() != "amx" or rates.flops_bfloat16 > 3 * rates.flops


def test_means_losses_and_failures() -> None:
    core = [case for case in ALL if case.group == "core" and case.cell == "gru"]
    rows = [row("fused_rnn", 1e-3, case=case) for case in core[:3]]
    pairs = zip(core[:2], (4e-3, 0.5e-3), strict=True)
    rows += [row("torch.nn", seconds, case=case) for case, seconds in pairs]
    rows += [row("jax", None, case=core[0], reason="not installed: jax")]
    rows[2] |= {"failure": "served by torch"}
    comparisons = compare(rows)
    assert [c.ratio(c.torch) for c in comparisons] == [4, 0.5, None]
    summary = report.summary(comparisons).splitlines()[-1]
    assert "| 1.41 | **0.50 loss** |" in summary and "**1 failed**" in summary
    text = report.full(rows)
    assert "- jax: not installed: jax (1)" in text
    assert "**FAILED**: served by torch" in text


def test_the_textbook_gru_is_set_beside_ours() -> None:
    textbook = [case for case in ALL if case.group == "textbook"][:2]
    rows = [row("fused_rnn", 2e-3, case=case) for case in textbook]
    rows += [row("jax", 4e-3, case=case) for case in textbook]
    assert "reset-after" not in report.full(rows)
    pairs = zip(textbook, (2e-3, 0.5e-3), strict=True)
    rows += [row("fused_rnn-reset-after", seconds, case=case) for case, seconds in pairs]
    assert "takes 2.00 times as long as our reset-after GRU in the mean, 4.00" in report.full(rows)
    ratios = [c.ratio(c.best) for c in compare(rows)]
    assert ratios == [2, None, 2, None]


def test_a_failed_row_has_no_ratio() -> None:
    rows = [row("fused_rnn", None, failure="wrong", reason="wrong"), row("torch.nn", 1e-3)]
    assert compare(rows)[0].ratio(rows[1]) is None


def test_trials_are_not_published(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    write(path, [row("fused_rnn", 1e-3, quick=True)])
    with pytest.raises(ValueError, match="--quick"):
        load([path])


def test_charts_are_drawn(tmp_path: Path) -> None:
    rows = []
    for place, case in enumerate(case for case in ALL if case.threads <= 2):
        for mode in case.modes:
            rows += [row("fused_rnn", 1e-3, case=case, mode=mode)]
            rows += [row("torch.nn", 1e-3 * (1 + place % 3), case=case, mode=mode)]
    paths = charts.draw(compare(rows), tmp_path / "cpu")
    assert [path.name for path in paths] == ["cpu-ratios.png", "cpu-scaling.png"]
    assert all(path.stat().st_size > 10_000 for path in paths)


@needs_compiler
@pytest.mark.skipif(
    sys.platform != "linux", reason="cores are taken and memory is read as on Linux"
)
def test_run_writes_rows(tmp_path: Path) -> None:
    out = tmp_path / "rows.jsonl"
    command = [sys.executable, "-m", "bench.run", "--quick", "--filter", "^core/gru-B7"]
    command += ["--providers", "fused_rnn,torch.nn,torch.nn-loop", "--out", str(out)]
    done = subprocess.run(command, cwd=machine.ROOT, capture_output=True, text=True)
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(rows) == 4, done.stdout + done.stderr
    columns = "case mode provider metric unit p20 p50 p80 peak_bytes gpu driver cuda torch triton"
    assert set(columns.split()) | {"commit", "machine", "cpu", "threads", "served_by"} <= set(
        rows[0]
    )
    assert all((row["p50"] is None) == (row["reason"] is not None) for row in rows)
    ours = [row for row in rows if row["provider"] == "fused_rnn"]
    able = extensions.why_unavailable() is None
    assert [row["served_by"] == "native" for row in ours] == [able, able]
    assert [row["failure"] is None for row in ours] == [able, able]
    assert done.returncode == (0 if able else 1)


@pytest.mark.skipif(
    sys.platform != "linux", reason="cores are taken and memory is read as on Linux"
)
def test_memory_grows_with_the_case() -> None:
    case = Case("gru", 16, 64, 64, 64, "test")
    contestant = harness.this_tree(["torch.nn"])
    small = harness.peak(case, "train", contestant, "torch.nn")
    large = harness.peak(case._replace(steps=640), "train", contestant, "torch.nn")
    assert small is not None and large is not None
    assert large > 5 * small


def test_a_dead_process_is_told() -> None:
    worker = harness.Worker(_die)
    with pytest.raises(ChildProcessError, match="code 3"):
        worker.answer()
    worker.close()


def _die(channel: object) -> None:
    os._exit(3)
