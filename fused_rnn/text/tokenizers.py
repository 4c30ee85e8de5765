# SPDX-License-Identifier: MIT
"""Ways to cut a text into tokens and to put tokens together again."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple


class Tokenizer(NamedTuple):
    """A pair of functions: text to tokens, tokens to text."""

    split: Callable[[str], list[str]]
    join: Callable[[Iterable[str]], str]


# "char": one token a Unicode code point, nothing is lost.
# "word": what stands between white space; joined by single spaces.
TOKENIZERS = {
    "char": Tokenizer(split=list, join="".join),
    "word": Tokenizer(split=str.split, join=" ".join),
}
