# SPDX-License-Identifier: MIT
"""Ways to cut a text into tokens and to put tokens together again."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple


class Tokenizer(NamedTuple):
    """A pair of functions: text to tokens, tokens to text."""

    split: Callable[[str], list[str]]
    join: Callable[[Iterable[str]], str]


def _between_spaces(text: str) -> list[str]:
    return text.split(" ")


# "char": one token a Unicode code point, nothing is lost.
# "word": what stands between white space; joined by single spaces.
# "space": what stands between single spaces, as the book's translation data has it.
TOKENIZERS = {
    "char": Tokenizer(split=list, join="".join),
    "word": Tokenizer(split=str.split, join=" ".join),
    "space": Tokenizer(split=_between_spaces, join=" ".join),
}
