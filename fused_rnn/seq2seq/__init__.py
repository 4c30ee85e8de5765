# SPDX-License-Identifier: MIT
"""Models of text built on the fused layers, and their training."""

from .archive import (
    SavedLanguageModel,
    SavedTranslator,
    load_language_model,
    load_translator,
    save_language_model,
    save_translator,
)
from .attention import ATTENTIONS
from .checkpoint import CheckpointError, holds_checkpoint
from .decoder import ATTENDS, AttentionDecoder, RNNDecoder
from .encoder import RNNEncoder
from .ensemble import Ensemble
from .exhaustive import exhaustive_search, score
from .hypotheses import Hypotheses
from .interfaces import Decoder, Encoded, Encoder, EncoderDecoder, Prediction, Steps
from .language_model import (
    LanguageModel,
    LanguageModelConfig,
    evaluate,
    generate,
)
from .language_model_training import SAMPLINGS, Trainer, TrainingOptions
from .pair_scores import ScoredPair, score_pairs
from .recurrence import CELLS, detach
from .sampling import sample
from .search import STOPS, beam_search, greedy_search
from .training import Diverged, Evaluation, Training, train
from .training_options import OPTIMIZERS, PRECISIONS, SCHEDULES, Options
from .translation import Candidate, Draws, SearchOptions, Translation, corpus_scores, translate
from .translator import (
    Translator,
    TranslatorConfig,
    TranslatorTraining,
    evaluate_translator,
    masked_cross_entropy,
)

__all__ = [
    "ATTENDS",
    "ATTENTIONS",
    "CELLS",
    "OPTIMIZERS",
    "PRECISIONS",
    "SAMPLINGS",
    "SCHEDULES",
    "STOPS",
    "AttentionDecoder",
    "Candidate",
    "CheckpointError",
    "Decoder",
    "Diverged",
    "Draws",
    "Encoded",
    "Encoder",
    "EncoderDecoder",
    "Ensemble",
    "Evaluation",
    "Hypotheses",
    "LanguageModel",
    "LanguageModelConfig",
    "Options",
    "Prediction",
    "RNNDecoder",
    "RNNEncoder",
    "SavedLanguageModel",
    "SavedTranslator",
    "ScoredPair",
    "SearchOptions",
    "Steps",
    "Trainer",
    "Training",
    "TrainingOptions",
    "Translation",
    "Translator",
    "TranslatorConfig",
    "TranslatorTraining",
    "beam_search",
    "corpus_scores",
    "detach",
    "evaluate",
    "evaluate_translator",
    "exhaustive_search",
    "generate",
    "greedy_search",
    "holds_checkpoint",
    "load_language_model",
    "load_translator",
    "masked_cross_entropy",
    "sample",
    "save_language_model",
    "save_translator",
    "score",
    "score_pairs",
    "train",
    "translate",
]
