# SPDX-License-Identifier: MIT
"""The numbering of tokens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

UNKNOWN, PAD, BOS, EOS = "<unk>", "<pad>", "<bos>", "<eos>"
# What a translation needs besides `<unk>`.
RESERVED = (PAD, BOS, EOS)


class Vocab:
    """Tokens and their numbers: `<unk>` is 0, then reserved tokens, then tokens by frequency.

    Tokens of equal frequency keep the order of their first appearance. A token that has no
    number of its own is read as `<unk>`.

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
        frequent = (token for token, count in counts.most_common() if count >= min_freq)
        # dict keeps the first place of a token that is both reserved and found in the text.
        self.tokens = list(dict.fromkeys((UNKNOWN, *reserved, *frequent)))
        self._numbers = {token: number for number, token in enumerate(self.tokens)}

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
        """Returns the number of each token."""
        numbers, unknown = self._numbers, self.unknown
        return [numbers.get(token, unknown) for token in tokens]

    def decode(self, numbers: Iterable[int]) -> list[str]:
        """Returns the token of each number."""
        return [self.tokens[number] for number in numbers]

    def _reserved(self, token: str) -> int:
        if token not in self._numbers:
            raise ValueError(f"vocab: expected one with {token!r} reserved, got one without")
        return self._numbers[token]
