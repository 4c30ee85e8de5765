# SPDX-License-Identifier: MIT
"""Models of text built on the fused layers, and their training."""

from .archive import (
    SavedLanguageModel,
    load_language_model,
    save_language_model,
)
from .checkpoint import CheckpointError, holds_checkpoint
from .language_model import (
    CELLS,
    Evaluation,
    LanguageModel,
    LanguageModelConfig,
    Prediction,
    detach,
    evaluate,
    generate,
)
from .training import (
    OPTIMIZERS,
    SAMPLINGS,
    SCHEDULES,
    Trainer,
    TrainingOptions,
    train,
)

__all__ = [
    "CELLS",
    "OPTIMIZERS",
    "SAMPLINGS",
    "SCHEDULES",
    "CheckpointError",
    "Evaluation",
    "LanguageModel",
    "LanguageModelConfig",
    "Prediction",
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
