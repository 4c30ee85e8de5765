# SPDX-License-Identifier: MIT
"""Models of text built on the fused layers, and their training."""

from .archive import (
    SavedLanguageModel,
    load_language_model,
    save_language_model,
)
from .attention import ATTENTIONS
from .checkpoint import CheckpointError, holds_checkpoint
from .decoder import ATTENDS, AttentionDecoder, RNNDecoder
from .encoder import RNNEncoder
from .exhaustive import exhaustive_search, score
from .hypotheses import Hypotheses
from .interfaces import Decoder, Encoded, Encoder, EncoderDecoder, Prediction, Steps
from .language_model import (
    Evaluation,
    LanguageModel,
    LanguageModelConfig,
    evaluate,
    generate,
)
from .recurrence import CELLS, detach
from .sampling import sample
from .search import STOPS, beam_search, greedy_search
from .training import (
    OPTIMIZERS,
    SAMPLINGS,
    SCHEDULES,
    Trainer,
    TrainingOptions,
    train,
)

__all__ = [
    "ATTENDS",
    "ATTENTIONS",
    "CELLS",
    "OPTIMIZERS",
    "SAMPLINGS",
    "SCHEDULES",
    "AttentionDecoder",
    "CheckpointError",
    "Decoder",
    "Encoded",
    "Encoder",
    "EncoderDecoder",
    "Hypotheses",
    "STOPS",
    "Steps",
    "beam_search",
    "exhaustive_search",
    "greedy_search",
    "sample",
    "score",
    "Evaluation",
    "LanguageModel",
    "LanguageModelConfig",
    "Prediction",
    "RNNDecoder",
    "RNNEncoder",
    "SavedLanguageModel",
    "Trainer",
    "TrainingOptions",
    "detach",
    "evaluate",
    "generate",
    "holds_checkpoint",
    "load_language_model",
    "save_language_model",
    "train",
]
