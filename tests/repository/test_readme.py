# SPDX-License-Identifier: MIT
"""README and the guides hold: their examples run, and what is generated is up to date."""

import re
from pathlib import Path

import pytest

from bench import publish

README = (publish.ROOT / "README.md").read_text(encoding="utf-8")
GUIDES = sorted((publish.ROOT / "docs").glob("*.md"))
EXAMPLES = [
    (path.name, code)
    for path in (publish.ROOT / "README.md", *GUIDES)
    for code in re.findall(r"^```python\n(.*?)^```$", path.read_text(), re.DOTALL | re.MULTILINE)
]


def test_there_are_examples() -> None:
    files = [name for name, _ in EXAMPLES]
    assert files.count("README.md") >= 3
    assert files.count("layers.md") >= 3
    assert {"applications.md", "other-packages.md"} <= set(files)


# Their examples need packages that `make test` does not install; those of the last, for their size,
# `make test-interop` neither: `pip install -e '.[forecasting]'`.
NEED_OTHERS = {"export.md", "other-frameworks.md", "reinforcement-learning.md", "forecasting.md"}
FORECASTERS = ("neuralforecast", "gluonts", "pytorch_forecasting")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("name", "code"),
    [
        pytest.param(*own, marks=[pytest.mark.interop] if own[0] in NEED_OTHERS else [])
        for own in EXAMPLES
    ],
    ids=[f"{name}: {code.strip().splitlines()[-1][:40]}" for name, code in EXAMPLES],
)
def test_example_runs(
    name: str, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in FORECASTERS:
        if f"from {package}" in code:
            pytest.importorskip(package, reason="needs the extra `forecasting`")
    # gluonts leaves its checkpoints behind.
    monkeypatch.chdir(tmp_path)
    exec(compile(code, name, "exec"), {"__name__": "example"})


def test_the_program_in_cpp_is_the_one_that_is_tested() -> None:
    text = (publish.ROOT / "docs" / "export.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```(?:cpp|cmake)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    folder = publish.ROOT / "tests" / "torch" / "serving"
    sources = [(folder / name).read_text() for name in ("serve.cpp", "CMakeLists.txt")]
    licence = re.compile(r"^(?://|#) SPDX-License-Identifier: MIT\n")
    assert blocks == [licence.sub("", source) for source in sources]


def test_readme_links_every_guide() -> None:
    assert all(f"]({path.relative_to(publish.ROOT)})" in README for path in GUIDES)


@pytest.mark.parametrize("name", publish.PAGES)
def test_generated_sections_are_up_to_date(name: str) -> None:
    text = (publish.ROOT / name).read_text(encoding="utf-8")
    assert publish.page(name, text) == text, "run `python -m bench.publish`"


def test_links_lead_somewhere() -> None:
    for path in (publish.ROOT / "README.md", *GUIDES):
        text = path.read_text(encoding="utf-8")
        for link in re.findall(r"\]\((?!https?:)([^)#]*)(?:#[^)]*)?\)", text):
            assert not link or (path.parent / link).exists(), f"{path.name}: {link}"


def test_the_first_page_is_one() -> None:
    assert len(README.splitlines()) <= 200


def test_reports_beside_the_results_are_up_to_date() -> None:
    for path, report in publish.reports().items():
        assert path.read_text(encoding="utf-8") == report, "run `python -m bench.publish`"


def test_support_table_follows_the_predicates() -> None:
    native, cuda, triton, torch, reference = publish.support_table().splitlines()[2:]
    assert native.startswith("| `native` ")
    assert native.endswith("| CPU | all | all | yes | from a tape |")
    assert "compiled and emulated, not yet run on a GPU, owed: `bench/gpu.sh" in cuda
    assert cuda.endswith("| CUDA | all | all | yes | from a tape |")
    assert "compiled and interpreted, not yet run on a GPU, owed: `bench/gpu.sh" in triton
    assert triton.endswith("| CUDA | all | float32, bfloat16, float16 | yes | from a tape |")
    assert "reset-before" not in torch and torch.endswith("| no | the layer again |")
    assert reference.endswith("| all | all | all | yes | the layer again |")


def test_first_page_has_example_table_and_install() -> None:
    top = "\n".join(README.splitlines()[:40])
    assert "FusedGRU(" in top
    # One machine's table at least; each machine measured adds ten lines.
    assert "<!-- generated: speed " in top and "| RNN | training |" in top
    assert "pip install --no-build-isolation ." in top


@pytest.mark.parametrize("text", ["", "<!-- generated: speed -->\n"])
def test_a_missing_section_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match="speed"):
        publish.section("speed", "content", text)
