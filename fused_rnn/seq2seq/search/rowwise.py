# SPDX-License-Identifier: MIT
"""Sequences that grow independently of each other: what greedy search and sampling share."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ...ops.selection import Outlived, outlive
from .graphs import Captured, growth
from .hypotheses import Hypotheses, Normalizer, sum_in_order
from .stepping import Stepper

# Steps that there is room for at first; searches that go on get more.
FIRST_STEPS = 256


class _Rows(NamedTuple):
    """The state of all rows, which a step leaves to the next one."""

    tokens: Tensor  # (N,)
    state: Any
    grown: Outlived


class _Drawn(NamedTuple):
    """The tokens that a step adds to the sequences, with their gains and attention."""

    tokens: Tensor  # (N,)
    gains: Tensor  # (N,), log-probabilities of the tokens
    attention: Tensor | None  # (N, S)


def one_by_one(
    stepper: Stepper,
    normalizer: Normalizer,
    state: Any,
    bos: int | Tensor,
    draw: Callable[[Tensor], Tensor] | None,
    each: int,
    check_every: int,
    generator: torch.Generator | None = None,
    watch: Callable[[Tensor], bool] | None = None,
) -> Hypotheses:
    """Returns sequences grown token by token, (B, each), in their order.

    Args:
        stepper: of the model.
        normalizer: of the scores.
        state: of B rows.
        bos: fed first; one token, or one for each sentence, (B,).
        draw: tokens (N,) of log-probabilities (N, V). None: the likeliest.
        each: sequences for each sentence.
        check_every: steps between looks at whether all is done.
        generator: what `draw` draws with, if not PyTorch's global one. Default None.
        watch: see `sample`. Default None.
    """
    own = stepper.constraints
    state, tokens = stepper.spread(state, each), stepper.start(bos, each)
    drawn = tokens.new_full((min(own.max_length, FIRST_STEPS), len(tokens)), own.pad)
    gains = torch.zeros_like(drawn, dtype=torch.float32)
    limits = own.limits.each
    if limits is not None:
        limits = limits.to(tokens.device).repeat_interleave(each)
    alive = torch.ones_like(tokens, dtype=torch.bool)
    rows = _Rows(tokens, state, Outlived(alive, alive, torch.zeros_like(tokens)))
    seen: list[Tensor] = []
    graph: Captured[_Rows, _Drawn] | None = None
    captured_from = growth(stepper).captured_from
    for step in range(own.max_length):
        if step == len(drawn):
            drawn = torch.cat((drawn, torch.full_like(drawn, own.pad)))
            gains = torch.cat((gains, torch.zeros_like(gains)))
        if step == captured_from:
            grown = partial(_grown, stepper, draw, step, limits, drawn[:0].t())
            graph = Captured(grown, rows, generator)
            rows = graph.carried
        if graph is None:
            rows, one = _grown(stepper, draw, step, limits, drawn[:step].t(), rows)
        else:
            one = graph()
        drawn[step], gains[step] = one.tokens, one.gains
        if one.attention is not None:
            seen.append(one.attention if graph is None else one.attention.clone())
        stopped = watch is not None and watch(one.tokens)
        looks = stopped or (step + 1) % check_every == 0 or step + 1 == own.max_length
        if looks and (not stepper.any_left(rows.grown.alive) or stopped):
            break
    lengths = rows.grown.lengths * rows.grown.reached
    width = own.max_length if limits is None else step + 1
    found = (_rows(drawn, width, own.pad), _rows(gains, width, 0), lengths, step + 1, seen)
    return _gathered(*found, stepper, normalizer)


def _rows(steps: Tensor, width: int, value: float) -> Tensor:
    """(N, width) of (T, N): the first steps, or all and as many of a value as are missing."""
    return F.pad(steps[:width].t(), (0, max(0, width - len(steps))), value=value)


def _grown(
    stepper: Stepper,
    draw: Callable[[Tensor], Tensor] | None,
    step: int,
    limits: Tensor | None,
    history: Tensor,
    rows: _Rows,
) -> tuple[_Rows, _Drawn]:
    """One step of all rows; limits are (N,)."""
    given = (rows.tokens, rows.state, step, history)
    found, state = stepper.best(*given, 1) if draw is None else stepper.drawn(*given, draw)
    tokens, gains = found.indices.squeeze(1), found.values.squeeze(1)
    eos = stepper.constraints.eos
    grown = outlive(found, rows.grown, limits, stepper.broken, eos)
    return _Rows(tokens, state, grown), _Drawn(tokens, gains, stepper.attention)


def _gathered(
    tokens: Tensor,
    gains: Tensor,
    lengths: Tensor,
    steps: int,
    seen: list[Tensor],
    stepper: Stepper,
    normalizer: Normalizer,
) -> Hypotheses:
    """Rows, (N, T), as hypotheses of their sentences; of length 0, they have reached nothing."""

    def split(rows: Tensor) -> Tensor:
        return rows.unflatten(0, (stepper.rows.sentences, -1))

    own = stepper.constraints
    last = tokens.gather(1, (lengths - 1).clamp(min=0).unsqueeze(1)).squeeze(1)
    finished = (lengths > 0) & (last == own.eos if own.eos is not None else False)
    past = torch.arange(tokens.size(1), device=tokens.device) >= lengths.unsqueeze(1)
    gains = gains.masked_fill(past, 0)
    log_probs = sum_in_order(gains).masked_fill(lengths == 0, -torch.inf)
    attention = None
    if seen:
        attention = gains.new_zeros(*gains.shape, seen[0].size(1))
        attention[:, : len(seen)] = torch.stack(seen, 1)
        attention = split(attention.masked_fill(past.unsqueeze(2), 0))
    return Hypotheses(
        split(tokens.masked_fill(past, own.pad)),
        split(lengths),
        split(normalizer.score(log_probs, lengths, steps)),
        split(log_probs),
        split(gains),
        split(finished),
        attention,
    )
