# SPDX-License-Identifier: MIT
"""All that lies between a text and its token numbers, kept together."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from .normalization import normalize
from .tokenizers import TOKENIZERS
from .vocab import Vocab


class Codec(NamedTuple):
    """Text to token numbers and back.

    Args:
        vocab: the numbering.
        tokenizer: a name in TOKENIZERS. Default "char".
        normalization: a name in NORMALIZATIONS. Default "none".
    """

    vocab: Vocab
    tokenizer: str = "char"
    normalization: str = "none"

    @classmethod
    def of(
        cls, text: str, *, tokenizer: str = "char", normalization: str = "none", min_freq: int = 0
    ) -> Codec:
        """Returns the codec whose vocabulary is that of a text."""
        tokens = cls(Vocab(), tokenizer, normalization).split(text)
        return cls(Vocab(tokens, min_freq=min_freq), tokenizer, normalization)

    def split(self, text: str) -> list[str]:
        """Returns the tokens of a text, normalised."""
        split = TOKENIZERS[self.tokenizer].split
        return [token for piece in normalize(text, self.normalization) for token in split(piece)]

    def encode(self, text: str) -> Tensor:
        """Returns the token numbers of a text, int64, one dimension."""
        return torch.tensor(self.vocab.encode(self.split(text)), dtype=torch.int64)

    def decode(self, numbers: Iterable[int]) -> str:
        """Returns the text of token numbers."""
        return TOKENIZERS[self.tokenizer].join(self.vocab.decode(numbers))
