# SPDX-License-Identifier: MIT
"""A small translator of numbers, and its pairs."""

from typing import Any

import torch

from fused_rnn.seq2seq import Translator, TranslatorConfig
from fused_rnn.text import RESERVED, Codec, number_pairs

NUMBERS = number_pairs(60, seed=2, limit=100)
CODECS = tuple(
    Codec.learn(side, tokenizer="char", reserved=RESERVED) for side in zip(*NUMBERS, strict=True)
)
BOS = CODECS[1].vocab.bos
NAMES = ("source_vocab_size", "target_vocab_size")


def build(seed: int = 0, **options: Any) -> Translator:
    torch.manual_seed(seed)
    sizes = {"hidden_size": 10, "embedding_size": 6, "outer_dropout": 0.2, **options}
    vocabs = (len(codec.vocab) for codec in CODECS)
    return Translator(TranslatorConfig(**dict(zip(NAMES, vocabs, strict=True)), **sizes))
