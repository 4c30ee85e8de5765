# SPDX-License-Identifier: MIT
"""All that lies between a text and its token numbers, kept together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .normalization import normalize
from .reading import refuse_string
from .subwords import Subwords
from .tokenizers import TOKENIZERS
from .vocab import Vocab

# The name of the tokenizer that is learnt.
SUBWORD = "subword"


class Codec(NamedTuple):
    """Text to token numbers and back.

    Args:
        vocab: the numbering.
        tokenizer: a name in TOKENIZERS, or "subword". Default "char".
        normalization: a name in NORMALIZATIONS. Default "none".
        subwords: what "subword" has learnt; None for any other tokenizer.
    """

    vocab: Vocab
    tokenizer: str = "char"
    normalization: str = "none"
    subwords: Subwords | None = None

    @classmethod
    def of(
        cls, text: str, *, tokenizer: str = "char", normalization: str = "none", min_freq: int = 0
    ) -> Codec:
        """Returns the codec whose vocabulary is that of a text."""
        return cls.learn(
            (text,), tokenizer=tokenizer, normalization=normalization, min_freq=min_freq
        )

    @classmethod
    def learn(
        cls,
        texts: Iterable[str],
        *,
        tokenizer: str = "word",
        normalization: str = "none",
        min_freq: int = 0,
        reserved: Sequence[str] = (),
        size: int = 8000,
    ) -> Codec:
        """Returns the codec whose vocabulary is that of many texts.

        Args:
            texts: read once, or twice for "subword", which takes no one-time iterator.
            tokenizer: a name in TOKENIZERS, or "subword". Default "word".
            normalization: a name in NORMALIZATIONS. Default "none".
            min_freq: tokens seen fewer times are left out. Default 0: none.
            reserved: tokens numbered right after `<unk>`. Default none.
            size: of the subwords learnt; no other tokenizer looks at it. Default 8000.

        Raises:
            ValueError: there is no tokenizer of this name.
            TypeError: texts is one string, or an iterator that is to be read twice.
        """
        refuse_string("texts", texts)
        if tokenizer not in (*TOKENIZERS, SUBWORD):
            known = sorted((*TOKENIZERS, SUBWORD))
            raise ValueError(f"tokenizer: expected one of {known}, got {tokenizer!r}")
        subwords = None
        if tokenizer == SUBWORD:
            if iter(texts) is texts:
                raise TypeError(
                    f"texts: expected what can be read twice, such as a list, for {SUBWORD!r}, got "
                    f"{type(texts).__name__}"
                )
            pieces = (piece for text in texts for piece in normalize(text, normalization))
            subwords = Subwords.train(pieces, size)
        bare = cls(Vocab(), tokenizer, normalization, subwords)
        tokens = (token for text in texts for token in bare.split(text))
        return bare._replace(vocab=Vocab(tokens, min_freq=min_freq, reserved=reserved))

    def split(self, text: str) -> list[str]:
        """Returns the tokens of a text, normalised."""
        split = self._scheme().split
        return [token for piece in normalize(text, self.normalization) for token in split(piece)]

    def encode(self, text: str) -> Tensor:
        """Returns the token numbers of a text, int64, one dimension."""
        return torch.tensor(self.vocab.encode(self.split(text)), dtype=torch.int64)

    def decode(self, numbers: Iterable[int]) -> str:
        """Returns the text of token numbers."""
        return self.join(self.vocab.decode(numbers))

    def join(self, tokens: Iterable[str]) -> str:
        """Returns the text of tokens."""
        return self._scheme().join(tokens)

    def opening(self, tokens: Iterable[str]) -> str:
        """Returns the text of tokens that others follow: spaces at its end belong to it."""
        if self.subwords is None:
            return self.join(tokens)
        return "".join(map(self.subwords.piece, tokens)).lstrip(" ")

    def piece(self, number: int) -> str:
        """Returns what a token adds to the text before it."""
        return self._scheme().piece(*self.vocab.decode((number,)))

    def record(self) -> dict[str, Any]:
        """Returns what JSON can hold of this, for `from_record`."""
        subwords = None if self.subwords is None else self.subwords.to_json()
        return {**self._asdict(), "vocab": self.vocab.tokens, "subwords": subwords}

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Codec:
        """Returns the codec that gave this record."""
        model = record.get("subwords")
        subwords = None if model is None else Subwords(model)
        return cls(**{**record, "vocab": Vocab.from_list(record["vocab"]), "subwords": subwords})

    def _scheme(self) -> Any:
        """The tokenizer that splits and joins."""
        return TOKENIZERS[self.tokenizer] if self.subwords is None else self.subwords
