# SPDX-License-Identifier: MIT
"""Simplifications of a text, each asked for by name; none is ever applied unasked."""

from __future__ import annotations

import re
from collections.abc import Callable

_NOT_LETTERS = re.compile("[^A-Za-z]+")


def _whole(text: str) -> list[str]:
    return [text]


def _letters_of_lines(text: str) -> list[str]:
    return [_NOT_LETTERS.sub(" ", line).strip().lower() for line in text.splitlines()]


def _letters(text: str) -> list[str]:
    return [_NOT_LETTERS.sub(" ", text).lower()]


NORMALIZATIONS: dict[str, Callable[[str], list[str]]] = {
    "none": _whole,
    "book1": _letters_of_lines,
    "book2": _letters,
}


def normalize(text: str, name: str) -> list[str]:
    """Returns a text simplified in the way of this name, in pieces to be tokenised one by one.

    Args:
        text: any text.
        name: "none"; or, lower-case Latin letters and single spaces only, as *Dive into Deep
            Learning* has them: "book1" (first edition, a piece a line, so that characters of two
            lines meet without a space) or "book2" (second edition, the text as one piece).

    Raises:
        ValueError: there is no way of this name.
    """
    if name not in NORMALIZATIONS:
        raise ValueError(f"name: expected one of {sorted(NORMALIZATIONS)}, got {name!r}")
    return NORMALIZATIONS[name](text)
