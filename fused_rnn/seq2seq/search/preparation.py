# SPDX-License-Identifier: MIT
"""The preparations that every search begins with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple

from torch import nn

from ...nn.prepacking import prepacked
from ..models.interfaces import Steps
from .constraints import Constraints
from .hypotheses import Normalizer
from .stepping import Stepper, evaluating, rows_of

_STEPS_WORTH_PACKING = 8


class Prepared(NamedTuple):
    """A model ready to be searched, and what makes scores of log-probabilities."""

    stepper: Stepper
    normalizer: Normalizer


@contextmanager
def searching(
    model: Steps,
    state: Any,
    constraints: Constraints,
    normalization: str,
    length_penalty: float,
    with_attention: bool = False,
    check_every: int = 1,
) -> Iterator[Prepared]:
    """Gives a stepper over a state's rows and a normalizer, without gradients and dropout.

    Raises:
        ValueError: check_every is below 1, or the constraints or the normalization do not fit.
    """
    if check_every < 1:
        raise ValueError(f"check_every: expected at least 1, got {check_every}")
    with evaluating(model), _prepacked(model, constraints.max_length):
        rows = rows_of(model, state)
        stepper = Stepper(model, constraints, rows, with_attention=with_attention)
        yield Prepared(
            stepper, Normalizer(normalization, length_penalty, constraints.limits, rows.device)
        )


def _prepacked(model: Steps, steps: int) -> AbstractContextManager[None]:
    """Packed weights, where there are steps enough to earn what packing takes."""
    if isinstance(model, nn.Module) and steps >= _STEPS_WORTH_PACKING:
        return prepacked(model)
    return nullcontext()
