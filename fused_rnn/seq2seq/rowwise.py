# SPDX-License-Identifier: MIT
"""Sequences that grow independently of each other: what greedy search and sampling share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .hypotheses import Hypotheses, Normalizer, sum_in_order
from .stepping import Stepper


def likeliest(log_probs: Tensor) -> Tensor:
    """Returns the likeliest token of each row, the lowest of equal ones, (N,)."""
    return log_probs.argmax(-1)


def one_by_one(
    stepper: Stepper,
    normalizer: Normalizer,
    state: Any,
    bos: int | Tensor,
    choose: Callable[[Tensor], Tensor],
    each: int,
    check_every: int,
) -> Hypotheses:
    """Returns sequences grown token by token, (B, each), in their order.

    Args:
        stepper: of the model.
        normalizer: of the scores.
        state: of B rows.
        bos: fed first; one token, or one for each sentence, (B,).
        choose: tokens (N,) of log-probabilities (N, V).
        each: sequences for each sentence.
        check_every: steps between looks at whether all is done.
    """
    own = stepper.constraints
    state, tokens = stepper.spread(state, each), stepper.start(bos, each)
    drawn = tokens.new_full((own.max_length, len(tokens)), own.pad)
    gains = torch.zeros_like(drawn, dtype=torch.float32)
    lengths = torch.zeros_like(tokens)
    # Rows whose next token is their own, and rows that have run into no dead end.
    alive = torch.ones_like(tokens, dtype=torch.bool)
    reached = alive
    seen: list[Tensor] = []
    for step in range(own.max_length):
        outlook = stepper.look(tokens, state, step, alive, drawn[:step].t())
        state = outlook.state
        tokens = choose(outlook.log_probs)
        gain = outlook.log_probs.gather(1, tokens.unsqueeze(1)).squeeze(1)
        possible = (gain > -torch.inf) & outlook.usable
        reached = reached & (possible | ~alive)
        alive = alive & possible
        drawn[step], gains[step] = tokens, gain
        lengths = lengths + alive
        if stepper.attention is not None:
            seen.append(stepper.attention)
        if own.eos is not None:
            alive = alive & (tokens != own.eos)
        last = step + 1 == own.max_length
        if ((step + 1) % check_every == 0 or last) and not stepper.any_left(alive):
            break
    lengths = lengths * reached
    parts = (drawn.t(), gains.t(), lengths, reached & ~alive, seen)
    return _gathered(*parts, stepper, normalizer)


def _gathered(
    tokens: Tensor,
    gains: Tensor,
    lengths: Tensor,
    finished: Tensor,
    seen: list[Tensor],
    stepper: Stepper,
    normalizer: Normalizer,
) -> Hypotheses:
    """Rows, (N, T), as hypotheses of their sentences; of length 0, they have reached nothing."""

    def split(rows: Tensor) -> Tensor:
        return rows.unflatten(0, (stepper.rows.sentences, -1))

    past = torch.arange(tokens.size(1), device=tokens.device) >= lengths.unsqueeze(1)
    gains = gains.masked_fill(past, 0)
    log_probs = sum_in_order(gains).masked_fill(lengths == 0, -torch.inf)
    attention = None
    if seen:
        attention = gains.new_zeros(*gains.shape, seen[0].size(1))
        attention[:, : len(seen)] = torch.stack(seen, 1)
        attention = split(attention.masked_fill(past.unsqueeze(2), 0))
    return Hypotheses(
        split(tokens.masked_fill(past, stepper.constraints.pad)),
        split(lengths),
        split(normalizer.score(log_probs, lengths)),
        split(log_probs),
        split(gains),
        split(finished),
        attention,
    )
