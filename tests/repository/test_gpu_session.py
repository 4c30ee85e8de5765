# SPDX-License-Identifier: MIT
"""The parts of `bench/gpu.sh`: their time, limits, files and plans; and both rehearsed whole."""

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import pytest
import torch

from bench import gpu, gpu_session, gpu_smoke, machine, rehearsal
from bench.gpu_smoke import SMOKES
from bench.session import Session
from bench.shards import outcomes
from fused_rnn import extensions

ROOT = Path(__file__).parents[2]
TIERS = ("block", "exact", "cluster", "grid", "stepwise")
TESTS = """
import os, time
def test_right(): pass
def test_wrong(): assert 1 == 2
def test_hangs(): time.sleep(60)
def test_after(): pass
def test_skipped():
    import pytest
    pytest.skip("no reason")
"""


@pytest.fixture(autouse=True)
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sessions that no test closes leave nothing behind."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def python(text: str) -> list[str]:
    return [sys.executable, "-c", text]


def logged(out: Path, part: str) -> set[str]:
    with tarfile.open(out / f"{part}-logs.tar.gz") as archive:
        return {Path(name).name for name in archive.getnames()} - {"logs"}


def test_steps_are_told_and_logged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    session = Session("first", tmp_path / "out", seconds=20)
    assert session.step("well", python("print('fine')"))
    assert not session.step("badly", python("print('why'); raise SystemExit(3)"))
    assert not session.step("late", python("import time; time.sleep(60)"), most=0.5)
    assert session.step("told", python("import os; print(os.environ['ONE'])"), ONE="two")
    assert session.close() == 1 and not session.scratch.exists()
    text = (tmp_path / "out" / "first.txt").read_text()
    assert text == capsys.readouterr().out
    for words in (
        ("well", "ok", "fine"),
        ("badly", "failed (3)", "why"),
        ("late", "out of time"),
        ("told", "ok", "two"),
        ("failed: badly, late",),
    ):
        assert any(all(word in line for word in words) for line in text.splitlines())
    assert logged(tmp_path / "out", "first") == {"well.log", "badly.log", "late.log", "told.log"}


def test_nothing_outlives_a_step(tmp_path: Path) -> None:
    session = Session("first", tmp_path)
    child = "import subprocess; print(subprocess.Popen(['sleep', '600']).pid, flush=True)"
    assert session.step("parent", python(child))
    pid = session.log("parent").read_text().strip()
    end = time.monotonic() + 60
    while _runs(pid):
        # It was sent the signal, and may need a moment to go.
        assert time.monotonic() < end
        time.sleep(0.05)


def _runs(pid: str) -> bool:
    try:
        return Path("/proc", pid, "stat").read_text().split()[2] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_test_that_hangs_costs_no_other(tmp_path: Path) -> None:
    file = tmp_path / "test_some.py"
    file.write_text(TESTS)
    session = Session("first", tmp_path / "out")
    gpu_session.tests(session, "some", str(file), workers=2, limit=3, most=100)
    text = (tmp_path / "out" / "first.txt").read_text()
    assert "1 failed, 1 out of time, 2 passed, 1 skipped" in text
    assert re.search(r"out of time \S*test_some.py::test_hangs:", text)
    assert re.search(r"failed \S*test_some.py::test_wrong: assert 1 == 2", text)
    assert "skipped: no reason" in text and session.failed == ["some"]
    record = outcomes(session.scratch / "logs" / "some-0.jsonl")
    names = [line["test"].partition("::test_")[2] for line in record]
    assert names == ["right", "hangs", "skipped"]


def test_each_smoke_falls_to_its_tier() -> None:
    if extensions.why_unavailable() is not None:
        pytest.skip(f"native: {extensions.why_unavailable()}")
    for smoke in SMOKES.values():
        for backward in (False, True):
            found = extensions.cuda_plan(
                smoke.cell,
                getattr(torch, smoke.dtype),
                steps=smoke.steps,
                batch=smoke.batch,
                recurrences=smoke.directions,
                hidden=smoke.hidden,
                device=rehearsal._SIZES,
                backward=backward,
            )
            assert found.startswith(smoke.tier)
    assert {smoke.tier for smoke in SMOKES.values()} == {"", *(f"tier {one}" for one in TIERS)}


def test_smokes_end_with_the_first_form_that_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def commands(*arguments: str) -> list[str]:
        return python(f"raise SystemExit({int(arguments[2:] == ('block', 'backward'))})")

    monkeypatch.setattr(gpu_session, "_python", commands)
    session = Session("first", tmp_path)
    assert not gpu_session.smoke(session)
    assert session.failed == ["block backward"]
    forms = {line.partition("  ")[0] for line in (tmp_path / "first.txt").read_text().splitlines()}
    assert forms == {f"{name} {pass_}" for name in list(SMOKES)[:3] for pass_ in gpu_smoke.PASSES}


@pytest.mark.parametrize("wrong", ["number", "tier", "bits"])
def test_a_smoke_that_is_wrong(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rehearsal, "DEVICE", "cpu")
    monkeypatch.setattr(rehearsal, "synchronize", lambda: None)
    monkeypatch.setattr(gpu_smoke, "_as_planned", lambda smoke, backward: "as planned")
    smoke = gpu_smoke.Smoke("reference", "gru", 2, 3, 8, "tier block")
    monkeypatch.setitem(SMOKES, "small", smoke)
    assert gpu_smoke.check("small", "backward").endswith("; as planned")
    if wrong == "tier":
        monkeypatch.undo()
        monkeypatch.setattr(rehearsal, "check_waits", lambda: None)
        monkeypatch.setattr(gpu_smoke, "plan", lambda *_: "tier block, planned")
        monkeypatch.setattr(rehearsal, "last_plan", lambda *_: "tier stepwise")
        ran = "planned tier block, planned; what ran is tier stepwise"
        with pytest.raises(AssertionError, match=ran):
            gpu_smoke._as_planned(smoke, False)
        return
    calls: list[None] = []
    right = gpu_smoke.ours

    def ours(*arguments: object) -> object:
        call = right(*arguments)

        def run() -> object:
            calls.append(None)
            scale = 1.5 if wrong == "number" else 1 + (len(calls) - 1) / 8
            return [tensor * scale for tensor in call.run()]

        return call._replace(run=run)

    monkeypatch.setattr(gpu_smoke, "ours", ours)
    expected = "times the tolerance" if wrong == "number" else "other bits"
    with pytest.raises(AssertionError, match=expected):
        gpu_smoke.check("small", "forward")


def test_the_first_table_has_48_rows() -> None:
    rows = [(t.case.name, t.mode, name) for t in gpu.tasks("first") for name in t.providers]
    assert len(set(rows)) == len(rows) == 48
    graphs = [name for task in gpu.tasks("second") for name in task.providers]
    assert len(graphs) == 48 and all(name.endswith("-graph") for name in graphs)


def test_carried_objects_are_not_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(ROOT / "csrc", tmp_path / "csrc")
    monkeypatch.setattr(gpu_session, "ROOT", tmp_path)
    monkeypatch.setattr(gpu_session, "CARRIED", tmp_path / "build" / "carried")
    for name in gpu_session.KERNELS:
        (gpu_session.CARRIED / name).mkdir(parents=True)
        folder = tmp_path / "csrc" / name
        for source in folder.rglob("isa/*.cpp" if name == "cpu" else "*.cu"):
            parts = source.relative_to(folder).with_suffix(".o").parts
            kept = gpu_session.CARRIED / name / "_".join(parts)
            kept.write_text("an object")
            # Older than any source, as after a copy that keeps no dates.
            os.utime(kept, (1, 1))
    assert not gpu_session.unpack_objects()
    (gpu_session.CARRIED / "sources").write_text(gpu_session.fingerprint() + "\n")
    assert gpu_session.unpack_objects()
    for name in gpu_session.KERNELS:
        make = ["make", "-q", "-C", str(tmp_path / "csrc" / name)]
        make += [f"BUILD={tmp_path / 'build' / name}", "NVCC=false"]
        assert subprocess.run(make, check=False).returncode == 0
    (tmp_path / "csrc" / "cells.h").write_text("other")
    assert not gpu_session.unpack_objects()


def test_without_git(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.shutil, "which", lambda name: None)
    assert machine.commit() == ""
    monkeypatch.setenv("FUSED_RNN_COMMIT", "0123456789ab")
    assert machine.record()["commit"] == "0123456789ab"


@pytest.mark.long
def test_rehearsal(tmp_path: Path) -> None:
    """Both parts from a bare copy, on the CPU: every file, import and path is as on the day."""
    if gpu_session.note("sources") != gpu_session.fingerprint():
        pytest.skip("not prepared: `bench/gpu.sh prepare` takes nvcc a quarter of an hour")
    if shutil.which("g++") is None:
        pytest.skip("g++ is not installed")
    tree, left = tmp_path / "tree", shutil.ignore_patterns("*.so", "__pycache__")
    for name in ("csrc", "fused_rnn", "bench", "tests"):
        shutil.copytree(ROOT / name, tree / name, ignore=left)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree / name)
    environment = os.environ | {"FUSED_RNN_REHEARSAL": "1", "PYTHON": sys.executable}
    environment.pop("PYTHONPATH", None)

    def gpu_sh(*arguments: str) -> None:
        subprocess.run([str(tree / "bench" / "gpu.sh"), *arguments], env=environment, check=True)

    shutil.copytree(gpu_session.CARRIED, tree / "build" / "carried")
    out = tmp_path / "out"
    gpu_sh("first", str(out))
    gpu_sh("second", str(out))
    assert "objects: carried" in (out / "first.txt").read_text()
    assert "all is well" in (out / "first.txt").read_text().splitlines()
    assert "all is well" in (out / "second.txt").read_text().splitlines()
    rows = [json.loads(line) for line in (out / "gpu-first.jsonl").read_text().splitlines()]
    assert len(rows) == 48 and sum(row["p50"] is not None for row in rows) == 36
    assert len(list(out.iterdir())) <= 8
    assert {"build.log", "cuda-5.jsonl", "table.log"} <= logged(out, "first")
