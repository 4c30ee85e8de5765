# SPDX-License-Identifier: MIT
"""A small language model, a text for it, and how it is trained."""

import random
from typing import Any

import torch
from torch import Tensor, nn

from fused_rnn.seq2seq import LanguageModel, LanguageModelConfig, TrainingOptions

V = 11
OPTIONS = TrainingOptions(steps=9, batch_size=3, num_steps=5, seed=3)


def build(cell: str = "gru", seed: int = 0, **options: Any) -> LanguageModel:
    torch.manual_seed(seed)
    sizes = {"hidden_size": 12, "embedding_size": 7, "dropout": 0.2, **options}
    return LanguageModel(LanguageModelConfig(V, cell, **sizes))


def text(length: int = 90) -> Tensor:
    rng = random.Random(0)
    return torch.tensor([rng.choice((1, 2, 3, rng.randrange(V))) for _ in range(length)])


def weights(model: nn.Module) -> Tensor:
    return nn.utils.parameters_to_vector(model.parameters())
