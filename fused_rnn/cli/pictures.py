# SPDX-License-Identifier: MIT
"""The parts of every picture: a figure, a file that can be written, letters for its labels."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from ..seq2seq.training.files import replace_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_NAMED = 20  # letters that a warning shows


def figure(*, width: float, height: float = 4.5) -> Figure:
    """Returns an empty figure, made without pyplot: no window system, no global state."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=120, layout="constrained")


def save(picture: Figure, path: Path) -> None:
    """Writes a figure as PNG, whatever the name of the file ends in."""
    image = io.BytesIO()
    picture.savefig(image, format="png")
    replace_file(path, image.getvalue())


def refuse_unwritable(path: Path) -> None:
    """Raises OSError, naming the file, if a picture cannot be written there; leaves no file."""
    there = path.exists()
    with open(path, "ab"):
        pass
    if not there:
        path.unlink()


def tidy(axes: Axes) -> None:
    """Gives axes light horizontal lines and no frame."""
    axes.grid(axis="y", color="#dddddd")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def families(texts: Iterable[str]) -> list[str]:
    """Returns families of fonts that have the letters of texts: the usual ones, then others.

    Letters that no font of this machine has are left to show as boxes; a warning names them.
    """
    from matplotlib import rcParams
    from matplotlib.font_manager import fontManager

    found = [str(name) for name in rcParams["font.family"]]
    missing = {ord(letter) for text in texts for letter in text if letter.isprintable()}
    missing -= _letters(_default())
    for font in fontManager.ttflist:
        if not missing:
            break
        # The placeholder that matplotlib (3.11) brings has a box for every letter there is.
        if missing & _letters(font.fname) and not font.name.startswith("Last Resort"):
            missing -= _letters(font.fname)
            found.append(font.name)
    if missing:
        letters = "".join(map(chr, sorted(missing)[:_NAMED]))
        warnings.warn(
            f"no font of this machine has {len(missing)} of the letters in a picture, which show "
            f"as boxes: {letters}",
            stacklevel=2,
        )
    return found


def _default() -> str:
    from matplotlib.font_manager import FontProperties, findfont

    return str(findfont(FontProperties()))


@cache
def _letters(path: str) -> frozenset[int]:
    """The code points that a font file has."""
    from matplotlib.font_manager import get_font

    return frozenset(get_font(path).get_charmap())
