# SPDX-License-Identifier: MIT
"""Models of text built on the fused layers, and their training."""

from .. import _moved
from .models.attention import ATTENTIONS
from .models.decoder import ATTENDS, AttentionDecoder, RNNDecoder
from .models.encoder import RNNEncoder
from .models.ensemble import Ensemble
from .models.interfaces import Decoder, Encoded, Encoder, EncoderDecoder, Prediction, Steps
from .models.language_model import LanguageModel, LanguageModelConfig, evaluate, generate
from .models.recurrence import CELLS, detach
from .models.translator import (
    Translator,
    TranslatorConfig,
    TranslatorTraining,
    evaluate_translator,
    masked_cross_entropy,
)
from .search.exhaustive import exhaustive_search, score
from .search.hypotheses import Hypotheses
from .search.pair_scores import ScoredPair, score_pairs
from .search.sampling import sample
from .search.search import STOPS, beam_search, greedy_search
from .search.translation import (
    Candidate,
    Draws,
    SearchOptions,
    Translation,
    corpus_scores,
    translate,
)
from .training.archive import (
    SavedLanguageModel,
    SavedTranslator,
    load_language_model,
    load_translator,
    save_language_model,
    save_translator,
)
from .training.checkpoint import CheckpointError, holds_checkpoint
from .training.language_model_training import SAMPLINGS, Trainer, TrainingOptions
from .training.options import OPTIMIZERS, PRECISIONS, SCHEDULES, Options
from .training.training import Diverged, Evaluation, Training, train

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

_moved.keep_names(__name__)
