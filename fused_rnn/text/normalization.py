# SPDX-License-Identifier: MIT
"""Simplifications of a text, each asked for by name; none is ever applied unasked."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

_NOT_LETTERS = re.compile("[^A-Za-z]+")
_NO_BREAK_SPACES = re.compile("[\u202f\u00a0]")
_PUNCTUATION = re.compile("(?<=[^ ])([,.!?])")


def _whole(text: str) -> list[str]:
    return [text]


def _letters_of_lines(text: str) -> list[str]:
    return [_NOT_LETTERS.sub(" ", line).strip().lower() for line in text.splitlines()]


def _letters(text: str) -> list[str]:
    return [_NOT_LETTERS.sub(" ", text).lower()]


def _punctuation_apart(text: str) -> list[str]:
    return [_PUNCTUATION.sub(r" \1", _NO_BREAK_SPACES.sub(" ", text).lower())]


def _spaces(text: str) -> list[str]:
    return [" ".join(unicodedata.normalize("NFC", text).split())]


NORMALIZATIONS: dict[str, Callable[[str], list[str]]] = {
    "none": _whole,
    "book1": _letters_of_lines,
    "book2": _letters,
    "book-pairs": _punctuation_apart,
    "spaces": _spaces,
}


def normalize(text: str, name: str) -> list[str]:
    """Returns a text simplified in the way of this name, in pieces to be tokenised one by one.

    Args:
        text: any text.
        name: "none"; "spaces" (Unicode form C, white space of any kind and length made one
            space); or what *Dive into Deep Learning* does: "book1" (lower-case Latin letters and
            single spaces only; first edition, a piece a line, so that characters of two lines
            meet without a space), "book2" (the same in the second edition, the text as one
            piece), "book-pairs" (of sentences to translate: no-break spaces made plain, lower
            case, a space before each `, . ! ?` that stands behind anything but a space).

    Raises:
        ValueError: there is no way of this name.
    """
    if name not in NORMALIZATIONS:
        raise ValueError(f"name: expected one of {sorted(NORMALIZATIONS)}, got {name!r}")
    return NORMALIZATIONS[name](text)
