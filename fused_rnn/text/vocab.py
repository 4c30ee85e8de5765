# SPDX-License-Identifier: MIT
"""The numbering of tokens."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable, Sequence

UNKNOWN, PAD, BOS, EOS = "<unk>", "<pad>", "<bos>", "<eos>"
# What a translation needs besides `<unk>`.
RESERVED = (PAD, BOS, EOS)
# What has a meaning of its own wherever it is a token; in a text it is text.
CONTROL = frozenset((UNKNOWN, *RESERVED))


class Vocab:
    """Tokens and their numbers: `<unk>` is 0, then reserved tokens, then tokens by frequency.

    Tokens of equal frequency keep the order of their first appearance. A token that has no
    number of its own is read as `<unk>`, and so is text spelt like `<unk>`, `<pad>`, `<bos>` or
    `<eos>`: it controls nothing. Learning from such text gives a UserWarning that counts it.

    Args:
        tokens: the tokens of a text, counted here one by one: any iterable, of any length.
        min_freq: tokens seen fewer times get no number of their own. Default 0: all do.
        reserved: tokens numbered right after `<unk>`, such as `<pad>`. Default none.
    """

    unknown = 0

    def __init__(
        self, tokens: Iterable[str] = (), *, min_freq: int = 0, reserved: Sequence[str] = ()
    ) -> None:
        counts = Counter(tokens)
        _warn({token: counts.pop(token) for token in CONTROL & counts.keys()})
        frequent = (token for token, count in counts.most_common() if count >= min_freq)
        # dict keeps the first place of a token that is both reserved and found in the text.
        self.tokens = list(dict.fromkeys((UNKNOWN, *reserved, *frequent)))
        self._numbers = {token: number for number, token in enumerate(self.tokens)}
        self._readable = {t: n for t, n in self._numbers.items() if t not in CONTROL}

    @classmethod
    def from_list(cls, tokens: Sequence[str]) -> Vocab:
        """Returns the vocabulary whose `tokens` are these, as a checkpoint stores them.

        Raises:
            ValueError: the first is not `<unk>`, or one comes twice.
        """
        if not tokens or tokens[0] != UNKNOWN:
            raise ValueError(f"tokens: expected {UNKNOWN!r} first, got {list(tokens[:1])}")
        if len(set(tokens)) != len(tokens):
            raise ValueError("tokens: expected each token once, got a repeated one")
        return cls(reserved=tokens[1:])

    def __len__(self) -> int:
        return len(self.tokens)

    def __contains__(self, token: object) -> bool:
        return token in self._numbers

    def __getitem__(self, token: str) -> int:
        return self._numbers.get(token, self.unknown)

    @property
    def pad(self) -> int:
        """The number of `<pad>`; ValueError if the vocabulary has none."""
        return self._reserved(PAD)

    @property
    def bos(self) -> int:
        """The number of `<bos>`; ValueError if the vocabulary has none."""
        return self._reserved(BOS)

    @property
    def eos(self) -> int:
        """The number of `<eos>`; ValueError if the vocabulary has none."""
        return self._reserved(EOS)

    def encode(self, tokens: Iterable[str]) -> list[int]:
        """Returns the number of each token of a text."""
        numbers, unknown = self._readable, self.unknown
        return [numbers.get(token, unknown) for token in tokens]

    def unread(self, tokens: Iterable[str]) -> list[str]:
        """Returns those tokens of a text that are read as `<unk>`."""
        return [token for token in tokens if token not in self._readable]

    def decode(self, numbers: Iterable[int]) -> list[str]:
        """Returns the token of each number.

        Raises:
            ValueError: a number is no token's.
        """
        size, given = len(self.tokens), list(numbers)
        if wrong := [number for number in given if not 0 <= number < size]:
            raise ValueError(f"numbers: expected 0 to {size - 1}, got {wrong[0]}")
        return [self.tokens[number] for number in given]

    def _reserved(self, token: str) -> int:
        if token not in self._numbers:
            raise ValueError(f"vocab: expected one with {token!r} reserved, got one without")
        return self._numbers[token]


def _warn(counts: dict[str, int]) -> None:
    if counts:
        found = ", ".join(f"{token} {counts[token]:,}" for token in sorted(counts))
        warnings.warn(
            f"the text holds tokens spelt like control tokens, which are read as {UNKNOWN}: {found}"
        )
