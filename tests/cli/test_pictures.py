# SPDX-License-Identifier: MIT
"""Pictures of whatever tokens and figures there are, and of nothing but paths that can be."""

import math
import sys
import warnings
from pathlib import Path

import pytest

from fused_rnn.cli import pictures
from fused_rnn.cli.curves import Course, draw_attention, draw_training
from fused_rnn.cli.options import need
from fused_rnn.seq2seq import Candidate, Translation

PNG = b"\x89PNG"


def translation(source: list[str], target: list[str]) -> Translation:
    look = [[1 / (len(source) + 1)] * (len(source) + 1) for _ in target]
    candidate = Candidate("", target, 0.0, 0.0, [0.0] * len(target), True, look)
    return Translation("", source, 0, [candidate])


def test_tokens_are_no_formulas(tmp_path: Path) -> None:
    path = tmp_path / "look.png"
    draw_attention(path, [translation(["$$", "$\\x$", "_^{"], ["$a$", "$", "<eos>"])])
    assert path.read_bytes().startswith(PNG)


def test_a_picture_is_a_png_whatever_its_name(tmp_path: Path) -> None:
    path = tmp_path / "look.docx"
    draw_attention(path, [translation(["a"], ["b"])])
    assert path.read_bytes().startswith(PNG)


def test_letters_come_from_a_font_that_has_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from matplotlib.font_manager import fontManager

    usual = pictures.families(["plain"])
    fonts = {font.name: font.fname for font in fontManager.ttflist}
    default = pictures._letters(pictures._default())
    name, letter = next(
        (name, letter)
        for name, path in sorted(fonts.items())
        if not name.startswith("Last Resort")
        for letter in sorted(pictures._letters(path) - default)
        if chr(letter).isprintable()
    )
    chosen = pictures.families(["plain", chr(letter)])
    assert chosen[: len(usual)] == usual and len(chosen) > len(usual)
    # Matplotlib warns of each letter that it has to show as a box.
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw_attention(tmp_path / "look.png", [translation([chr(letter)], ["b"])])
    # Matplotlib's own placeholder has every letter, each as the same box.
    placeholders = [font for font in fontManager.ttflist if font.name.startswith("Last Resort")]
    monkeypatch.setattr(fontManager, "ttflist", placeholders)
    with pytest.warns(UserWarning, match=f"no font of this machine has 1 of .*: {chr(letter)}"):
        assert pictures.families([chr(letter)]) == usual


@pytest.mark.parametrize(
    "course",
    [
        Course([9.0, 1e4, 2.0], [(2, 1e4), (3, 2.0)], math.inf),
        Course([1e4, 1e4], [(2, 1e4)], math.inf),
        Course([2.0], [(1, math.nan)], math.nan),
    ],
)
def test_curves_of_figures_beyond_all_bounds(tmp_path: Path, course: Course) -> None:
    draw_training(tmp_path / "curves.png", course)
    assert (tmp_path / "curves.png").read_bytes().startswith(PNG)


def test_paths_are_tried_first(tmp_path: Path) -> None:
    path = tmp_path / "look.png"
    pictures.refuse_unwritable(path)
    assert not path.exists()
    path.write_bytes(b"kept")
    pictures.refuse_unwritable(path)
    assert path.read_bytes() == b"kept"
    for wrong in (tmp_path / "absent" / "look.png", tmp_path):
        with pytest.raises(OSError, match=str(tmp_path)):
            pictures.refuse_unwritable(wrong)


def test_what_a_command_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    need("torch", "math")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for name in ("matplotlib", "no_such_package"):
        with pytest.raises(ModuleNotFoundError, match=f"No module named '{name}'"):
            need("torch", name)
