# SPDX-License-Identifier: MIT
"""A comparison of one training with a fused layer and with torch.nn's, side by side."""

from copy import deepcopy
from typing import NamedTuple

import torch
from torch import Tensor

from ..seq2seq import LanguageModel, Trainer, TrainingOptions
from .timing import Times, alternate


class Contender(NamedTuple):
    """The losses and the speed of one of the two trainings."""

    name: str
    losses: list[float]
    tokens_per_second: Times


class Comparison(NamedTuple):
    """Two trainings over the same batches from the same weights."""

    fused: Contender
    torch: Contender

    @property
    def ratio(self) -> float:
        """The fused layer's speed as a multiple of torch.nn's."""
        return self.fused.tokens_per_second.median / self.torch.tokens_per_second.median

    @property
    def largest_difference(self) -> float:
        """The largest difference of the two losses at any step."""
        pairs = zip(self.fused.losses, self.torch.losses, strict=True)
        return max(abs(one - other) for one, other in pairs)


def compare(
    model: LanguageModel, tokens: Tensor, options: TrainingOptions, *, seconds: float
) -> Comparison:
    """Returns how a model trains with its own layer and with torch.nn's in its place.

    Whole training steps are timed, embedding, loss and optimizer included, alternately in this
    one process. Neither the model nor PyTorch's global generator is changed.

    Args:
        model: where both begin.
        tokens: the text to train on, (n,).
        options: how to train.
        seconds: when to stop.
    """
    from tqdm import tqdm

    twin = deepcopy(model)
    twin.rnn = twin.rnn.to_torch()
    names = (type(model.rnn).__name__, f"nn.{type(twin.rnn).__name__}")
    trainers = [Trainer(deepcopy(model), tokens, options), Trainer(twin, tokens, options)]

    def step(trainer: Trainer) -> None:
        # Dropout draws the same numbers for both.
        torch.manual_seed(trainer.step)
        trainer.train_step()

    with torch.random.fork_rng(devices=()), tqdm(total=100, bar_format="{l_bar}{bar}|") as bar:
        times = alternate(
            [lambda: step(trainers[0]), lambda: step(trainers[1])],
            seconds=seconds,
            progress=lambda part: bar.update(round(100 * part) - bar.n),
        )
    size = options.tokens_per_step
    fused, plain = (
        Contender(name, trainer.losses, Times(*(size / second for second in reversed(own))))
        for name, trainer, own in zip(names, trainers, times, strict=True)
    )
    return Comparison(fused, plain)
