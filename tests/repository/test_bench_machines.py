# SPDX-License-Identifier: MIT
"""Every row names its machine, and no figure is made of two."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from recorded_rows import ALL, row, write

from bench import applications, gpu_report, harness, machine, publish, report, run
from bench.cases import Case
from bench.comparison import compare
from bench.rows import Row, load, machine_of, merge


def said(vendor: str, family: int, model: int, flags: str) -> list[str]:
    """What the kernel says of two processors, as far as it matters here."""
    lines = [f"vendor_id\t: {vendor}", f"cpu family\t: {family}", f"model\t\t: {model}"]
    return [*lines, "model name\t: Some Processor", f"flags\t\t: fpu {flags}", ""] * 2


@pytest.mark.parametrize(
    ("lines", "name"),
    [
        (said("AuthenticAMD", 25, 0x11, "avx2 avx512f avx512_bf16"), "zen4"),
        (said("AuthenticAMD", 25, 0x61, "avx2 avx512f avx512_bf16"), "zen4"),
        (said("AuthenticAMD", 25, 0xA0, "avx2 avx512f avx512_bf16"), "zen4"),
        (said("AuthenticAMD", 25, 0x01, "avx2"), "zen3"),
        (said("AuthenticAMD", 26, 0x02, "avx2 avx512f avx512_bf16"), "zen5"),
        (said("AuthenticAMD", 23, 0x31, "avx2"), "amd-avx2"),
        (said("GenuineIntel", 6, 143, "avx2 avx512f avx512_bf16 amx_bf16 amx_tile"), "amx"),
        (said("GenuineIntel", 6, 106, "avx2 avx512f"), "intel-avx512"),
        (said("GenuineIntel", 6, 60, "avx avx2"), "intel-avx2"),
        (said("HygonGenuine", 24, 1, "avx2"), "x86_64-avx2"),
        (["CPU implementer\t: 0x41", "Features\t: fp asimd sve"], "aarch64-sve"),
        (["hart\t: 0", "isa\t: rv64imafdc"], "aarch64"),
    ],
)
def test_a_processor_is_named_by_its_kind(lines: list[str], name: str) -> None:
    architecture = "x86_64" if lines[0].startswith("vendor_id") else "aarch64"
    assert machine.family(lines, architecture) == name


def test_rows_and_their_file_carry_the_machine() -> None:
    assert machine.record()["machine"] == machine.name()
    assert machine.results().name == f"cpu-{machine.name()}.jsonl"
    assert run._parser().parse_args(["--out"]).out == machine.results()


def test_both_trees_of_a_comparison_carry_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def trees(base: str | None, providers: list[str]) -> Iterator[list[harness.Contestant]]:
        label = f"fused_rnn@{base}"
        here = harness.this_tree(providers)
        yield [here, here._replace(providers=("fused_rnn",), label=label)]

    def measure(
        case: Case, mode: str, contestants: list[harness.Contestant], effort: harness.Effort
    ) -> list[Row]:
        return [row(contestant.label, 1e-3, case=case, mode=mode) for contestant in contestants]

    monkeypatch.setattr(run, "_contestants", trees)
    monkeypatch.setattr(harness, "measure", measure)
    monkeypatch.setattr(machine, "record", lambda: {"machine": "zen9"})
    arguments = run._parser().parse_args(["--filter=core/gru-B7", "--modes=infer", "--base=main"])
    rows = [row for rows in run._measure_all(arguments) for row in rows]
    assert [(row["provider"], row["machine"]) for row in rows] == [
        ("fused_rnn", "zen9"),
        ("fused_rnn@main", "zen9"),
    ]


def test_no_figure_is_made_of_two_machines() -> None:
    rows = [row("fused_rnn", 1e-3, machine="zen4"), row("torch.nn", 2e-3, machine="amx")]
    for figure in (compare, report.full, report.hardware, machine_of):
        with pytest.raises(ValueError, match="one machine, got zen4, amx"):
            figure(rows)
    for one in rows:
        assert compare([one]) is not None
    gpus = [row("fused_rnn", 1e-3, gpu=gpu) for gpu in ("H200", "B200")]
    with pytest.raises(ValueError, match="one machine, got H200, B200"):
        gpu_report.means(gpus)


def test_the_books_systems_stand_apart_by_processor() -> None:
    rates = {"figure": 1.0, "tokens_per_second": {"p50": 100.0}}
    base = dict(system="gru", metric="perplexity", epochs=1, threads=1, book={"figure": 1})
    base |= {"fused": rates, "torch.nn": rates}
    rows = [
        row("", 1.0, cpu="AMD EPYC", ratio=4.0) | base,
        row("", 1.0, cpu="Intel Xeon", ratio=1.0) | base,
    ]
    text = applications.full("book", rows)
    assert "AMD EPYC" in text and "Intel Xeon" in text
    assert "| 4.00 |" in text and "| 1.00 |" in text and "| 2.00 |" not in text


def test_each_machine_has_its_report_charts_and_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publish, "RESULTS", tmp_path)
    monkeypatch.setattr(publish, "PLACE", tmp_path)
    (tmp_path / "docs").mkdir()
    for page, parts in publish.PAGES.items():
        (tmp_path / page).write_text(
            "".join(
                f"<!-- generated: {name} (python -m bench.publish) -->\n<!-- end: {name} -->\n"
                for name in parts
            )
        )
    core = [case for case in ALL if case.group == "core" and case.cell == "lstm"]
    for name, cpu, seconds in (("zen4", "AMD EPYC", 2e-3), ("amx", "Intel Xeon", 8e-3)):
        known = {"machine": name, "cpu": cpu, "commit": "abc", "instruction_set": None}
        rows = [row("fused_rnn", 1e-3, case=case, **known) for case in core]
        rows += [row("torch.nn", seconds, case=case, **known) for case in core]
        write(tmp_path / f"cpu-{name}.jsonl", rows)
    publish.main()
    text, measurements = (
        (tmp_path / name).read_text() for name in ("README.md", "docs/measurements.md")
    )
    amx, zen4 = text.index("amx: Intel Xeon"), text.index("zen4: AMD EPYC")
    assert "| 8.00 | 8.00 | 8.00 | 8.00 | 10 |" in text[amx:zen4]
    assert "| 2.00 | 2.00 | 2.00 | 2.00 | 10 |" in text[zen4:]
    assert "4.00" not in text
    for name in ("zen4", "amx"):
        assert (tmp_path / f"cpu-{name}.md").read_text().startswith(f"# Measurements on {name}\n")
        assert f"![cpu-{name}-ratios](../bench/results/cpu-{name}-ratios.png)" in measurements
        assert (tmp_path / f"cpu-{name}-ratios.png").stat().st_size > 10_000


@pytest.mark.parametrize("path", publish.recorded(), ids=lambda path: path.stem)
def test_a_file_of_results_is_of_the_machine_in_its_name(path: Path) -> None:
    assert path.stem == f"cpu-{machine_of(load([path]))}"


def times(path: Path) -> list[tuple[str, str, float]]:
    return [(row["case"], row["provider"], row["p50"]) for row in load([path])]


def test_new_rows_take_the_places_of_old_ones(tmp_path: Path) -> None:
    path, (first, second, third) = tmp_path / "cpu-amx.jsonl", ALL[:3]
    assert merge(path, [row(name, 1.0, case=first) for name in ("fused_rnn", "torch.nn")]) == 0
    assert merge(path, [row("fused_rnn", 1.0, case=second)]) == 0
    training = row("fused_rnn", 4.0, case=second, mode="train")
    assert merge(path, [row("fused_rnn", 2.0, case=second), training]) == 0
    # The peer of the first case did not run again.
    new = [row("fused_rnn", 3.0, case=third), row("fused_rnn", 3.0, case=first)]
    assert merge(path, new) == 1
    assert times(path) == [
        (first.name, "fused_rnn", 3.0),
        (first.name, "torch.nn", 1.0),
        (second.name, "fused_rnn", 2.0),
        (second.name, "fused_rnn", 4.0),
        (third.name, "fused_rnn", 3.0),
    ]
    assert [file.name for file in tmp_path.iterdir()] == ["cpu-amx.jsonl"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"machine": "zen9"}, "one machine, got zen4, zen9"), ({"quick": True}, "--quick")],
)
def test_a_file_takes_no_other_rows(wrong: Row, message: str, tmp_path: Path) -> None:
    path = tmp_path / "cpu-zen4.jsonl"
    merge(path, [row("fused_rnn", 1.0, machine="zen4")])
    before = path.read_text()
    with pytest.raises(ValueError, match=message):
        merge(path, [row("fused_rnn", 2.0, **({"machine": "zen4"} | wrong))])
    assert path.read_text() == before


def measured(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Makes `bench.run` find the same time everywhere."""

    def measure(
        case: Case, mode: str, contestants: list[harness.Contestant], effort: harness.Effort
    ) -> list[Row]:
        return [row(name, seconds, case=case, mode=mode) for name in contestants[0].providers]

    monkeypatch.setattr(harness, "measure", measure)


def test_run_merges_what_it_measures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "rows.jsonl"
    options = [f"--merge={path}", "--modes=infer"]
    measured(monkeypatch, 1.0)
    both = ["--providers=fused_rnn,torch.nn", "--filter=core/gru-B(7|8)-"]
    assert run.main([*options, *both]) == 0
    assert "older rows" not in capsys.readouterr().out
    measured(monkeypatch, 2.0)
    assert run.main([*options, "--providers=fused_rnn", "--filter=core/gru-B7-"]) == 0
    assert "1 older rows of other providers stand beside new ones" in capsys.readouterr().out
    assert sorted(time for *_, time in times(path)) == [1, 1, 1, 2]


def test_run_asks_before_it_measures_whether_the_file_is_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "cpu-zen9.jsonl"
    write(path, [row("fused_rnn", 1.0, machine="zen9")])
    monkeypatch.setattr(harness, "measure", lambda *_: pytest.fail("measured"))
    with pytest.raises(ValueError, match="one machine, got zen9"):
        run.main([f"--merge={path}", "--filter=core/gru-B7-"])


@pytest.mark.parametrize(
    "options",
    [
        ["--quick", "--merge"],
        ["--base=main", "--merge"],
        ["--quick", "--out"],
        ["--base=main", "--out"],
        ["--filter=core", "--out"],
        ["--providers=fused_rnn", "--out"],
        ["--out", "--merge"],
    ],
    ids=" ".join,
)
def test_results_are_not_overwritten_by_less(
    options: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(harness, "measure", lambda *_: pytest.fail("measured"))
    monkeypatch.setattr(run, "_contestants", lambda *_: pytest.fail("built"))
    with pytest.raises(SystemExit) as stopped:
        run.main(options)
    assert stopped.value.code == 2
