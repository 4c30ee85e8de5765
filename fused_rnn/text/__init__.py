# SPDX-License-Identifier: MIT
"""From text to minibatches of token numbers, and how well a model does on them."""

from .batches import Batch, random_batches, sequential_batches
from .codec import SUBWORD, Codec
from .corpora import CORPORA, corpus, python_topics
from .metrics import bleu, perplexity
from .ngram import NgramModel
from .normalization import NORMALIZATIONS, normalize
from .numbers import english_number, french_number, number_pairs
from .pairs import (
    EncodedPair,
    Pair,
    PairData,
    Pairs,
    StreamedPairs,
    TranslationBatch,
    encode_pair,
    pad_batch,
    read_pairs,
    read_parallel,
    split_pairs,
    translation_batches,
)
from .reading import TextError, arriving_lines, read_lines, read_text
from .streaming import StreamedText, streamed_batches
from .subwords import Subwords
from .tokenizers import TOKENIZERS, Tokenizer
from .vocab import BOS, EOS, PAD, RESERVED, UNKNOWN, Vocab

__all__ = [
    "BOS",
    "CORPORA",
    "EOS",
    "NORMALIZATIONS",
    "PAD",
    "RESERVED",
    "SUBWORD",
    "TOKENIZERS",
    "UNKNOWN",
    "Batch",
    "Codec",
    "EncodedPair",
    "NgramModel",
    "Pair",
    "PairData",
    "Pairs",
    "StreamedPairs",
    "StreamedText",
    "Subwords",
    "TextError",
    "Tokenizer",
    "TranslationBatch",
    "Vocab",
    "arriving_lines",
    "bleu",
    "corpus",
    "encode_pair",
    "english_number",
    "french_number",
    "normalize",
    "number_pairs",
    "pad_batch",
    "perplexity",
    "python_topics",
    "random_batches",
    "read_lines",
    "read_pairs",
    "read_parallel",
    "read_text",
    "sequential_batches",
    "split_pairs",
    "streamed_batches",
    "translation_batches",
]
