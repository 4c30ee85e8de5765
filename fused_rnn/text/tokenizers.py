# SPDX-License-Identifier: MIT
"""Ways to cut a text into tokens and to put tokens together again."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple


class Tokenizer(NamedTuple):
    """A way to cut a text into tokens, and what stands between tokens put together again."""

    split: Callable[[str], list[str]]
    gap: str

    def join(self, tokens: Iterable[str]) -> str:
        """Returns the text of tokens."""
        return self.gap.join(tokens)

    def piece(self, token: str) -> str:
        """Returns what a token adds to the text before it."""
        return self.gap + token


def between_spaces(text: str) -> list[str]:
    """Returns what stands between spaces; several in a row, and those at the ends, part nothing."""
    return [token for token in text.split(" ") if token]


# "char": one token a Unicode code point, nothing is lost.
# "word": what stands between white space; joined by single spaces.
# "space": what stands between spaces and nothing else, as the book's translation data has it.
TOKENIZERS = {
    "char": Tokenizer(split=list, gap=""),
    "word": Tokenizer(split=str.split, gap=" "),
    "space": Tokenizer(split=between_spaces, gap=" "),
}
