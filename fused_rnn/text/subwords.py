# SPDX-License-Identifier: MIT
"""Tokens between characters and words, learnt from text by the `tokenizers` library."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from .reading import refuse_string
from .vocab import UNKNOWN

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Library

# Stands in a token for the space before it.
_SPACE = "\u2581"


class Subwords:
    """Byte-pair encoding of characters (Sennrich et al. 2016), spaces being part of the tokens.

    Args:
        model: the library's own JSON, as `to_json` gave it.

    Raises:
        ValueError: it is no such JSON.
        ModuleNotFoundError: the `tokenizers` package is not installed.
    """

    def __init__(self, model: str) -> None:
        from tokenizers import Tokenizer

        self._model = model
        try:
            self._library: Library = Tokenizer.from_str(model)
        except Exception as error:
            if type(error) is not Exception:  # of all errors the library's own are of no other type
                raise
            raise ValueError(f"model: expected a tokenizer's JSON, got another ({error})") from None
        numbers = self._library.get_vocab()
        # As they were learnt, `<unk>` first.
        self.tokens = sorted(numbers, key=numbers.__getitem__)

    @classmethod
    def train(cls, texts: Iterable[str], size: int, *, sentences: bool = True) -> Subwords:
        """Returns the subwords learnt from texts, which may be a stream.

        Args:
            texts: any number of them.
            size: how many different tokens there may be, single characters included.
            sentences: whether a text begins with a word, which is then the same token there as
                behind a space; False for pieces of a longer text. Default True.

        Raises:
            ValueError: size is below 2.
            TypeError: texts is one string.
        """
        refuse_string("texts", texts)
        if size < 2:
            raise ValueError(f"size: expected at least 2, got {size}")
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

        library = Tokenizer(models.BPE(unk_token=UNKNOWN))
        prepend = "always" if sentences else "never"
        library.pre_tokenizer = pre_tokenizers.Metaspace(_SPACE, prepend)
        library.decoder = decoders.Metaspace(_SPACE, prepend)
        trainer = trainers.BpeTrainer(
            vocab_size=size, special_tokens=[UNKNOWN], show_progress=False
        )
        library.train_from_iterator(texts, trainer)
        return cls(library.to_str())

    def split(self, text: str) -> list[str]:
        """Returns the tokens of a text; characters that were not learnt stand for themselves."""
        found = self._library.encode(text)
        return [
            text[start:end] if token == UNKNOWN else token
            for token, (start, end) in zip(found.tokens, found.offsets, strict=True)
        ]

    def join(self, tokens: Iterable[str]) -> str:
        """Returns the text of tokens."""
        return "".join(map(self.piece, tokens)).strip(" ")

    def piece(self, token: str) -> str:
        """Returns what a token adds to the text before it."""
        return token.replace(_SPACE, " ")

    def to_json(self) -> str:
        """Returns what a checkpoint keeps."""
        return self._model
