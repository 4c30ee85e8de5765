# SPDX-License-Identifier: MIT
"""The options of a model's training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

OPTIMIZERS = ("adam", "adamw", "sgd")
SCHEDULES = ("cosine", "constant", "inverse-sqrt", "plateau")
PRECISIONS = ("float32", "bfloat16")


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of a model's training.

    Args:
        steps: minibatches in all. Default 2000.
        batch_size: rows of a minibatch, of all processes together, B. Default 32.
        optimizer: one of OPTIMIZERS. Default "adam".
        learning_rate: at its highest. Default 0.004.
        schedule: "cosine" rises, then falls to a fiftieth; "inverse-sqrt" rises, then falls as
            one over the root of the step (Vaswani et al. 2017); "plateau" is halved by each look
            at what is held out that is no better than the best before; "constant" stays. Default
            "cosine".
        warm_up: steps of a schedule's rise. Default 50.
        clip: longest gradient, all parameters taken as one vector. Default 1.0.
        weight_decay: of "adamw"; the others have none. Default 0.01.
        label_smoothing: part of the probability that is to go to any token alike, of the loss
            trained with (Szegedy et al. 2016). Default 0.
        accumulate: minibatches whose gradients make a step, as if they were one. Default 1.
        precision: "bfloat16" runs the model under autocast, the weights staying float32.
            Default "float32".
        validate_every: steps between looks at what is held out. Default 100.
        patience: looks without a better one after which training ends with the best weights;
            0 = it goes on to the last step, and the last weights stay. Default 0.
        average: the weights at the end are the mean of those at the last so many looks, whatever
            patience says of them. Default 0: they are not.
        seed: of the first weights, dropout and the order of minibatches. Default 0.
    """

    steps: int = 2000
    batch_size: int = 32
    optimizer: str = "adam"
    learning_rate: float = 0.004
    schedule: str = "cosine"
    warm_up: int = 50
    clip: float = 1.0
    weight_decay: float = 0.01
    label_smoothing: float = 0.0
    accumulate: int = 1
    precision: str = "float32"
    validate_every: int = 100
    patience: int = 0
    average: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        names = {"optimizer": OPTIMIZERS, "schedule": SCHEDULES, "precision": PRECISIONS}
        for name, allowed in names.items():
            check_choice(name, getattr(self, name), allowed)
        for name in ("steps", "batch_size", "validate_every", "warm_up", "accumulate"):
            check_at_least(name, getattr(self, name), 1)
        for name in ("patience", "average"):
            check_at_least(name, getattr(self, name), 0)
        for name in ("learning_rate", "clip"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}: expected more than 0, got {getattr(self, name)}")
        if not 0 <= self.label_smoothing < 1:
            given = self.label_smoothing
            raise ValueError(f"label_smoothing: expected at least 0, below 1, got {given}")
        if not 0 <= self.weight_decay < math.inf:
            raise ValueError(f"weight_decay: expected 0 or more, got {self.weight_decay}")

    def rate(self, step: int, validations: Sequence[tuple[int, float]] = ()) -> float:
        """Returns the learning rate of a step, counted from 0, after some validations."""
        if self.schedule == "constant":
            return self.learning_rate
        if self.schedule == "plateau":
            rate, best = self.learning_rate, math.inf
            for _, loss in validations:
                rate, best = rate / 2 if loss >= best else rate, min(best, loss)
            return rate
        rise = min(1.0, (step + 1) / self.warm_up)
        if self.schedule == "inverse-sqrt":
            return self.learning_rate * rise * math.sqrt(self.warm_up / max(step + 1, self.warm_up))
        fall = 0.02 + 0.98 * (1 + math.cos(math.pi * step / self.steps)) / 2
        return self.learning_rate * rise * fall


def check_choice(name: str, value: str, allowed: tuple[str, ...] | dict[str, Any]) -> None:
    """Raises ValueError unless a value is one of those allowed."""
    if value not in allowed:
        raise ValueError(f"{name}: expected one of {tuple(allowed)}, got {value!r}")


def check_at_least(name: str, value: int, least: int) -> None:
    """Raises ValueError if a value is too small."""
    if value < least:
        raise ValueError(f"{name}: expected at least {least}, got {value}")
