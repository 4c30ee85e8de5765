# SPDX-License-Identifier: MIT
"""How a model is trained."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

OPTIMIZERS = ("adam", "sgd")
SCHEDULES = ("cosine", "constant")
PRECISIONS = ("float32", "bfloat16")
_WARM_UP = 50


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a model is trained.

    Args:
        steps: minibatches in all. Default 2000.
        batch_size: rows of a minibatch, of all processes together, B. Default 32.
        optimizer: "adam" or "sgd". Default "adam".
        learning_rate: at its highest. Default 0.004.
        schedule: "cosine" rises over 50 steps, then falls to a fiftieth; "constant" stays.
            Default "cosine".
        clip: longest gradient, all parameters taken as one vector. Default 1.0.
        precision: "bfloat16" runs the model under autocast, the weights staying float32.
            Default "float32".
        validate_every: steps between looks at what is held out. Default 100.
        patience: looks without a better one after which training ends with the best weights;
            0 = it goes on to the last step, and the last weights stay. Default 0.
        seed: of the first weights, dropout and the order of minibatches. Default 0.
    """

    steps: int = 2000
    batch_size: int = 32
    optimizer: str = "adam"
    learning_rate: float = 0.004
    schedule: str = "cosine"
    clip: float = 1.0
    precision: str = "float32"
    validate_every: int = 100
    patience: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        names = {"optimizer": OPTIMIZERS, "schedule": SCHEDULES, "precision": PRECISIONS}
        for name, allowed in names.items():
            check_choice(name, getattr(self, name), allowed)
        for name in ("steps", "batch_size", "validate_every"):
            check_at_least(name, getattr(self, name), 1)
        check_at_least("patience", self.patience, 0)
        for name in ("learning_rate", "clip"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}: expected more than 0, got {getattr(self, name)}")

    def rate(self, step: int) -> float:
        """Returns the learning rate of a step, counted from 0."""
        if self.schedule == "constant":
            return self.learning_rate
        fall = 0.02 + 0.98 * (1 + math.cos(math.pi * step / self.steps)) / 2
        return self.learning_rate * min(1.0, (step + 1) / _WARM_UP) * fall


def check_choice(name: str, value: str, allowed: tuple[str, ...] | dict[str, Any]) -> None:
    """Raises ValueError unless a value is one of those allowed."""
    if value not in allowed:
        raise ValueError(f"{name}: expected one of {tuple(allowed)}, got {value!r}")


def check_at_least(name: str, value: int, least: int) -> None:
    """Raises ValueError if a value is too small."""
    if value < least:
        raise ValueError(f"{name}: expected at least {least}, got {value}")
