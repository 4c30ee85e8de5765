# SPDX-License-Identifier: MIT
"""The benchmark's groups of layers in use and of other precisions: sizes, setting, tables."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from recorded_rows import ALL, RATES, row

from bench import bounds, cases, peers, problems, race, report
from bench.cases import Case
from bench.comparison import compare
from bench.providers import Call, NoPeer

# Layers x H, B x T, I; directions.
FIELD = {
    "openunmix": ((3, 256, 1, 255, 512), 2),
    "demucs": ((2, 512, 1, 200, 512), 2),
    "pyannote": ((4, 128, 32, 589, 60), 2),
    "doctr": ((2, 128, 64, 32, 512), 2),
    "deepar": ((2, 40, 32, 60, 30), 1),
    "deepar-sampling": ((2, 40, 3200, 1, 30), 1),
    "neuralforecast": ((2, 128, 32, 48, 1), 1),
    "ppo": ((1, 256, 8, 128, 64), 1),
    "rnnt": ((1, 640, 8, 1, 640), 1),
    "encodec": ((2, 512, 1, 500, 512), 1),
}


def group(name: str) -> list[Case]:
    return [case for case in ALL if case.group == name]


@pytest.fixture
def no_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "measure", lambda threads: RATES)


def test_layers_are_as_their_packages_build_them() -> None:
    found = {
        case.package: ((case.layers, case.hidden, case.batch, case.steps, case.inputs), directions)
        for case in group("field")
        for directions in [case.directions]
    }
    assert found == FIELD
    for case in group("field"):
        assert (case.cell, case.dtype, case.modes) == ("lstm", "float32", ("infer", "train"))
        assert case.name.endswith(case.package) and ": " in case.reason
    assert group("field")[0].name == "field/lstm-B1-T255-I512-H256-L3-bidirectional-openunmix"


def test_single_steps_have_their_peers_in_any_group() -> None:
    for case in group("field"):
        problem = problems.make(case.shrunk())
        for name, steps in (("fused_rnn-prepacked", True), ("torch.nn-cell", case.layers == 1)):
            if case.steps == 1 and steps:
                assert peers.PROVIDERS[name](problem, "infer").served_by
            else:
                with pytest.raises(NoPeer):
                    peers.PROVIDERS[name](problem, "infer")


def test_both_half_types_are_measured_on_the_same_shapes() -> None:
    shapes = [
        {(case.cell, *case[1:5]) for case in group("half") if case.dtype == dtype}
        for dtype in ("bfloat16", "float16")
    ]
    assert shapes[0] == shapes[1] and len(shapes[0]) == 12


def test_high_precision_is_measured_where_there_are_batches() -> None:
    shapes = {case[1:5] for case in group("core") if case.batch >= 16}
    for cell in ("lstm", "gru"):
        assert {case[1:5] for case in group("high") if case.cell == cell} == shapes
    assert {case.precision for case in group("high")} == {"high"}
    assert {case.precision for case in ALL if case.group != "high"} == {"highest"}


def test_bounds_know_types_and_precision() -> None:
    needed = bounds.Work(2e9, 1 << 20, 1e6)
    assert bounds.bound(needed, RATES, "float16").seconds == 1e-2
    assert bounds.bound(needed, RATES, "float32", "high").seconds == 1e-2
    tiles = RATES._replace(flops_bfloat16=1200e9)
    assert bounds.bound(needed, tiles, "float32").seconds == 1e-2
    assert bounds.bound(needed, tiles, "float32", "high").seconds == 5e-3
    assert bounds.bound(needed, tiles, "float16").seconds == 1e-2
    case = Case("lstm", 2, 10, 8, 16, "test", dtype="float16")
    assert bounds.work(case, "infer", 20).bytes == 10 * 4 * 16 * 16 * 2


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, set[str]]]:
    """torch's setting whenever the reference, our layer or torch.nn's computes."""
    seen: dict[str, set[str]] = {}

    def noting(who: str, function: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            seen.setdefault(who, set()).add(torch.get_float32_matmul_precision())
            return function(*arguments, **options)

        return call

    def watched(name: str, build: Any) -> Any:
        def watched_build(problem: problems.Problem, mode: str) -> Call:
            call = build(problem, mode)
            return call._replace(run=noting(name, call.run))

        return watched_build

    monkeypatch.setattr(problems, "reference", noting("reference", problems.reference))
    for name in ("fused_rnn", "torch.nn"):
        monkeypatch.setitem(peers.PROVIDERS, name, watched(name, peers.PROVIDERS[name]))
    yield seen


@pytest.mark.usefixtures("no_rates")
@pytest.mark.parametrize("precision", ["high", "highest"])
@pytest.mark.parametrize("mode", ["infer", "train"])
def test_a_race_runs_under_its_cases_precision(
    mode: str, precision: str, settings: dict[str, set[str]]
) -> None:
    case = group("high")[0].shrunk()._replace(precision=precision)
    names = ["fused_rnn", "torch.nn"]
    contest = race.Race(case, mode, names)
    assert list(contest.round(0)) == names
    assert settings == dict.fromkeys(("reference", *names), {precision})
    race.peak_bytes(case, mode, "torch.nn")
    assert settings["torch.nn"] == {precision}
    assert torch.get_float32_matmul_precision() == "highest"


@pytest.mark.usefixtures("no_rates")
def test_the_setting_is_restored_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(problem: problems.Problem, mode: str) -> Call:
        raise KeyError(torch.get_float32_matmul_precision())

    monkeypatch.setitem(peers.PROVIDERS, "torch.nn", failing)
    with pytest.raises(KeyError, match="high"):
        race.Race(group("high")[0].shrunk(), "infer", ["torch.nn"])
    assert torch.get_float32_matmul_precision() == "highest"


@pytest.mark.usefixtures("no_rates")
@pytest.mark.parametrize(("name", "timed"), [("fused_rnn", False), ("torch.nn", True)])
def test_only_a_peer_may_be_a_little_inexact_under_high(
    name: str, timed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(problems.Gate, "worst", lambda self, results: 2.0)
    contest = race.Race(group("high")[0].shrunk(), "infer", [name])
    assert (name in contest.round(0)) == timed


@pytest.mark.parametrize("name", ["onnxruntime", "jax"])
def test_the_setting_is_torchs_alone(name: str) -> None:
    with pytest.raises(NoPeer, match="torch's setting"):
        peers.PROVIDERS[name](problems.make(group("high")[0].shrunk()), "infer")


def field_rows(machine: str, seconds: float) -> list[dict[str, Any]]:
    """Two layers; torch.nn takes once and four times as long as that."""
    found = []
    for case, factor in zip(group("field")[8:], (1, 4), strict=True):
        known = {"case": case, "machine": machine}
        found += [row("fused_rnn", 1e-3, **known), row("torch.nn", factor * seconds, **known)]
        # Rows of ours in a special way enter no mean.
        found += [row("fused_rnn-prepacked", 1e-4, **known)]
        found += [row("fused_rnn", 1e-3, mode="train", **known)]
        found += [row("torch.nn", 2e-3, mode="train", **known)]
    return found


def test_layers_of_packages_stand_in_one_table() -> None:
    table = report.field({"amx": compare(field_rows("amx", 1e-3))}).splitlines()
    assert table[0] == "| LSTM | amx, inference | amx, training |"
    assert table[2] == "| B8-T1-I640-H640-rnnt | 1.00 | 2.00 |"
    assert table[-2:] == ["| geometric mean | 2.00 | 2.00 |", "| lowest | 1.00 | 2.00 |"]


def test_machines_stand_side_by_side() -> None:
    rows = {"amx": field_rows("amx", 0.5e-3), "zen4": field_rows("zen4", 2e-3)[:5]}
    rows["amx"][0] |= {"failure": "wrong"}
    lines = report.field({name: compare(found) for name, found in rows.items()}).splitlines()
    assert (
        lines[0] == "| LSTM | amx, inference | amx, training | zen4, inference | zen4, training |"
    )
    assert lines[2] == "| B8-T1-I640-H640-rnnt | **FAILED** | 2.00 | 2.00 | 2.00 |"
    assert lines[3] == "| B1-T500-I512-H512-L2-encodec | 2.00 | 2.00 | – | – |"
    assert lines[-2] == "| geometric mean | 2.00 | 2.00 | 2.00 | 2.00 |"


def test_a_report_has_the_table_where_there_are_rows() -> None:
    plain = [row("fused_rnn", 1e-3), row("torch.nn", 2e-3)]
    assert "packages" not in report.full(plain) and report.field({"amx": compare(plain)}) == ""
    text = report.full([*plain, *field_rows(plain[0]["machine"], 1e-3)])
    assert re.search(r"## Layers as packages build them\n\n\| LSTM \|", text)
    assert "### LSTM, inference" in text.split("Layers as packages")[1]
    assert len(cases.select("^field/", quick=True)) == 10
