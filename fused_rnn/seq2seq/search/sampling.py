# SPDX-License-Identifier: MIT
"""Sequences drawn at random from what a model predicts."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor

from ...ops.selection import top
from ..models.interfaces import Steps
from .constraints import Constraints, Limits
from .hypotheses import Hypotheses
from .preparation import searching
from .rowwise import one_by_one


def sample(
    model: Steps,
    state: Any,
    *,
    bos: int | Tensor,
    eos: int | None,
    pad: int,
    max_length: int | Tensor,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    num_samples: int = 1,
    generator: torch.Generator | None = None,
    length_penalty: float = 0.75,
    normalization: str = "length",
    min_length: int = 0,
    no_repeat_ngram: int = 0,
    prefix: Tensor | None = None,
    ban: Collection[int] = (),
    allow: Collection[int] | None = None,
    return_attention: bool = False,
    check_every: int = 8,
    watch: Callable[[Tensor], bool] | None = None,
) -> Hypotheses:
    """Returns sequences drawn token by token, (B, num_samples), in the order they were drawn.

    Log-probabilities and scores are the model's own, whatever the temperature and the filters.
    What is drawn depends on the generator and on the number of rows, B * num_samples.

    Args:
        temperature: divides logits; 0 = the likeliest token, infinity = any alike. Default 1.
        top_k: only so many of the likeliest tokens are drawn from, of equal ones the lowest
            first. Default 0: all.
        top_p: only the fewest likeliest tokens that have this much probability together are
            drawn from, after temperature and top_k (Holtzman et al. 2020). Default 1: all.
        num_samples: sequences for each sentence. Default 1.
        generator: draws. Default: PyTorch's global generator.
        watch: called after each step with what it drew, (B * num_samples,), of no meaning past a
            sequence's end; where it returns true, the search ends as at max_length. Default None.
        model, state and the rest: as in `beam_search`.

    Raises:
        ValueError: an argument does not fit, or logits are NaN or infinite.
    """
    check_draws(temperature, top_k, top_p)
    if num_samples < 1:
        raise ValueError(f"num_samples: expected at least 1, got {num_samples}")
    most = Limits.of(max_length)
    constraints = Constraints(eos, pad, most, min_length, no_repeat_ngram, prefix, ban, allow)
    with searching(
        model, state, constraints, normalization, length_penalty, return_attention, check_every
    ) as (stepper, normalizer):

        def draw(log_probs: Tensor) -> Tensor:
            return _draw(_filtered(log_probs, temperature, top_k, top_p), generator)

        drawing = draw if temperature > 0 else None
        return one_by_one(
            *(stepper, normalizer, state, bos, drawing, num_samples, check_every), generator, watch
        )


def _filtered(log_probs: Tensor, temperature: float, top_k: int, top_p: float) -> Tensor:
    """Probabilities to draw with, (N, V), not of sum 1; zero in all of a row without any."""
    # The largest is made 0 first, so that a tiny temperature cannot overflow to inf; of what has
    # no probability an infinite one would make NaN.
    peak = log_probs.amax(-1, keepdim=True)
    numbers = torch.finfo(log_probs.dtype)
    temperature = min(max(temperature, numbers.tiny), numbers.max)
    logits = (log_probs - peak.where(peak > -torch.inf, 0)) / temperature
    if 0 < top_k < logits.size(1):
        best = top(logits, top_k)
        logits = torch.full_like(logits, -torch.inf).scatter_(1, best.indices, best.values)
    weights = logits.exp()
    if top_p < 1:
        weights = weights / weights.sum(-1, keepdim=True).clamp_min(1e-30)
        ranked, order = weights.sort(dim=-1, descending=True, stable=True)
        # Those whose predecessors have enough already.
        ranked = ranked.masked_fill(ranked.cumsum(-1) - ranked >= top_p, 0)
        weights = torch.zeros_like(weights).scatter_(1, order, ranked)
    return weights


def _draw(weights: Tensor, generator: torch.Generator | None) -> Tensor:
    """A token of each row, (N,): the first of independent exponential clocks to ring."""
    clocks = torch.empty_like(weights).exponential_(generator=generator)
    return (weights / clocks).argmax(-1)


def check_draws(temperature: float, top_k: int, top_p: float) -> None:
    """Raises ValueError unless there is something to draw with."""
    if not temperature >= 0:
        raise ValueError(f"temperature: expected 0 or more, got {temperature}")
    if top_k < 0:
        raise ValueError(f"top_k: expected 0 or more, got {top_k}")
    if not 0 < top_p <= 1:
        raise ValueError(f"top_p: expected more than 0, at most 1, got {top_p}")
