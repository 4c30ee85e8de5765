# SPDX-License-Identifier: MIT
"""From text to minibatches of token numbers, and how well a model predicts them."""

from .batches import Batch, random_batches, sequential_batches
from .codec import Codec
from .corpora import TextError, python_topics, read_text
from .metrics import perplexity
from .ngram import NgramModel
from .normalization import NORMALIZATIONS, normalize
from .tokenizers import TOKENIZERS, Tokenizer
from .vocab import UNKNOWN, Vocab

__all__ = [
    "NORMALIZATIONS",
    "TOKENIZERS",
    "UNKNOWN",
    "Batch",
    "Codec",
    "NgramModel",
    "TextError",
    "Tokenizer",
    "Vocab",
    "normalize",
    "perplexity",
    "python_topics",
    "random_batches",
    "read_text",
    "sequential_batches",
]
