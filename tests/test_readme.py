# SPDX-License-Identifier: MIT
"""README holds: its examples run, and what is generated in it is up to date."""

import re

import pytest

from bench import publish

README = publish.README.read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```python\n(.*?)^```$", README, flags=re.DOTALL | re.MULTILINE)


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 4


@pytest.mark.parametrize("code", EXAMPLES, ids=lambda code: code.strip().splitlines()[-1][:40])
def test_example_runs(code: str) -> None:
    exec(compile(code, "README.md", "exec"), {"__name__": "example"})


def test_generated_sections_are_up_to_date() -> None:
    assert publish.readme(README) == README, "run `python -m bench.publish`"


def test_reports_beside_the_results_are_up_to_date() -> None:
    for path, report in publish.reports().items():
        assert path.read_text(encoding="utf-8") == report, "run `python -m bench.publish`"


def test_support_table_follows_the_predicates() -> None:
    native, cuda, triton, torch, reference = publish.support_table().splitlines()[2:]
    assert native.startswith("| `native` ") and native.endswith("| CPU | all | all | yes |")
    assert "compiled and emulated, not yet run on a GPU, owed: `bench/gpu.sh" in cuda
    assert cuda.endswith("| CUDA | all | all | yes |")
    assert "compiled and interpreted, not yet run on a GPU, owed: `bench/gpu.sh" in triton
    assert triton.endswith("| CUDA | all | float32, bfloat16, float16 | yes |")
    assert "reset-before" not in torch and torch.endswith("| no |")
    assert reference.endswith("| all | all | all | yes |")


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
