# SPDX-License-Identifier: MIT
"""Every sequence there is, and the score of sequences that are given."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ..models.interfaces import Steps
from .constraints import Constraints, Limits
from .hypotheses import Hypotheses, Normalizer, sum_in_order
from .preparation import searching
from .stepping import Stepper


def exhaustive_search(
    model: Steps,
    state: Any,
    *,
    bos: int | Tensor,
    eos: int | None,
    pad: int,
    max_length: int,
    n_best: int = 1,
    length_penalty: float = 0.75,
    normalization: str = "length",
    min_length: int = 0,
    no_repeat_ngram: int = 0,
    prefix: Tensor | None = None,
    ban: Collection[int] = (),
    allow: Collection[int] | None = None,
    max_sequences: int = 100_000,
) -> Hypotheses:
    """Returns the best of all sequences, (B, n_best): what a wide enough beam must find.

    All are looked at, so the cost grows as V^max_length. Conventions are those of `beam_search`:
    sequences that have not ended at max_length stand behind all that have.

    Args:
        max_sequences: more sequences than this, in all sentences together, are refused. Default
            100,000.
        model, state and the rest: as in `beam_search`; `attention` is not returned.

    Raises:
        ValueError: there are too many sequences, an argument does not fit, or logits are NaN or
            infinite.
    """
    if n_best < 1:
        raise ValueError(f"n_best: expected at least 1, got {n_best}")
    limits = Limits.of(int(max_length))
    constraints = Constraints(eos, pad, limits, min_length, no_repeat_ngram, prefix, ban, allow)
    with searching(model, state, constraints, normalization, length_penalty) as prepared:
        stepper, normalizer = prepared
        tokens, state = stepper.start(bos, 1), stepper.spread(state, 1)
        done, open_ = _enumerate(stepper, tokens, state, max_sequences)
        parts = (
            _best(done, normalizer, n_best, constraints, finished=True),
            _best([open_], normalizer, n_best, constraints, finished=False),
        )
    return _behind(*parts, n_best)


def score(
    model: Steps,
    state: Any,
    targets: Tensor,
    *,
    bos: int | Tensor | None = None,
    eos: int | None = None,
    pad: int | None = None,
    length_penalty: float = 0.75,
    normalization: str = "length",
    return_attention: bool = False,
) -> Hypotheses:
    """Returns what a model makes of given sequences: the hypotheses a search would return.

    Args:
        model, state: as in `beam_search`; B rows.
        targets: one sequence for each sentence, (B, T), or n of them, (B, n, T), as
            `Hypotheses.tokens` holds them.
        bos: fed first; one token, or one for each sentence, (B,). Default None: the first token
            of each target is fed first and not scored.
        eos: a sequence ends with its first one, and is finished. Default None: all count as
            finished.
        pad: a sequence ends before its first one. Default None: none is padded.
        length_penalty, normalization, return_attention: as in `beam_search`.

    Raises:
        ValueError: shapes or tokens do not fit, or logits are NaN or infinite.
    """
    targets = _shaped(targets, with_first=bos is None)
    if bos is None:
        first, targets = targets[:, :, 0], targets[:, :, 1:]
    B, n, T = targets.shape
    constraints = Constraints(None, 0, Limits.of(max(T, 1)))
    with searching(model, state, constraints, normalization, length_penalty, return_attention) as (
        stepper,
        normalizer,
    ):
        rows = stepper.rows.sentences
        if rows != B:
            raise ValueError(f"targets: expected {rows} rows as the state has, got {B}")
        lengths, finished = _ends(targets, eos, pad)
        inside = torch.arange(T, device=targets.device) < lengths.unsqueeze(2)  # (B, n, T)
        # What stands behind the end need not be a token at all.
        known = targets.masked_fill(~inside, 0)
        state = stepper.spread(state, n)
        tokens = first.flatten() if bos is None else stepper.start(bos, n)
        gains, attention = _walk(stepper, tokens, state, known, inside)
    gains = gains.masked_fill(~inside, 0)
    log_probs = sum_in_order(gains)
    return Hypotheses(
        targets if pad is None else targets.masked_fill(~inside, pad),
        lengths,
        normalizer.score(log_probs, lengths, T),
        log_probs,
        gains,
        finished,
        attention,
    )


def _shaped(targets: Tensor, *, with_first: bool) -> Tensor:
    """Targets as (B, n, T), n at least 1, and T too where the first token is fed."""
    given = tuple(targets.shape)
    if targets.dim() not in (2, 3):
        raise ValueError(f"targets: expected (B, T) or (B, n, T), got {given}")
    targets = targets.unsqueeze(1) if targets.dim() == 2 else targets
    if not targets.size(1):
        raise ValueError(f"targets: expected at least one for each sentence, got {given}")
    if with_first and not targets.size(2):
        raise ValueError(f"targets: expected a first token, got {given}")
    return targets


def _walk(
    stepper: Stepper, tokens: Tensor, state: Any, given: Tensor, inside: Tensor
) -> tuple[Tensor, Tensor | None]:
    """Log-probabilities (B, n, T) of given tokens, and the attention (B, n, T, S) of their steps.

    Args:
        stepper: of the model; it constrains nothing.
        tokens, state: to begin with, (B * n,).
        given: targets, (B, n, T).
        inside: which of them count, bool, (B, n, T).
    """
    B, n, T = given.shape
    gains, seen = torch.zeros_like(given, dtype=torch.float32), []
    for step in range(T):
        alive, following = inside[:, :, step].flatten(), given[:, :, step].flatten()
        outlook = stepper.look(tokens, state, step, alive, given[:, 0])
        if step == 0:
            _check_targets(given, outlook.log_probs.size(1))
        gain = outlook.log_probs.gather(1, following.unsqueeze(1)).squeeze(1)
        gains[:, :, step] = gain.masked_fill(~outlook.usable, -torch.inf).view(B, n)
        if stepper.attention is not None:
            seen.append((stepper.attention * alive.unsqueeze(1)).view(B, n, -1))
        tokens, state = following, outlook.state
    stepper.any_left(inside)
    return gains, torch.stack(seen, 2) if seen else None


class _Level(NamedTuple):
    """Sequences of one length, the same for every sentence."""

    paths: Tensor  # (B, M, t)
    gains: Tensor  # (B, M, t)
    totals: Tensor  # (B, M)

    def grown(self, log_probs: Tensor) -> _Level:
        """All sequences one token longer, (B, M * V), of log-probabilities (B * M, V)."""
        B, M, t = self.paths.shape
        own = log_probs.view(B, M, -1, 1)
        V = own.size(2)
        following = torch.arange(V, device=own.device).view(V, 1).expand(B, M, V, 1)
        paths = torch.cat((self.paths.unsqueeze(2).expand(B, M, V, t), following), 3)
        gains = torch.cat((self.gains.unsqueeze(2).expand(B, M, V, t), own), 3)
        totals = self.totals.unsqueeze(2) + own.squeeze(3)
        return _Level(paths.flatten(1, 2), gains.flatten(1, 2), totals.flatten(1))

    def some(self, which: Tensor) -> _Level:
        """The sequences that are marked, bool, (M,)."""
        return _Level(self.paths[:, which], self.gains[:, which], self.totals[:, which])


def _enumerate(
    stepper: Stepper, tokens: Tensor, state: Any, max_sequences: int
) -> tuple[list[_Level], _Level]:
    """All sequences that end, by their length, and all that have not at the greatest length."""
    own, rows = stepper.constraints, stepper.rows
    empty = torch.zeros(rows.sentences, 1, 0, dtype=torch.float32, device=rows.device)
    open_ = _Level(empty.to(torch.int64), empty, empty.new_zeros(rows.sentences, 1))
    done: list[_Level] = []
    for step in range(own.max_length):
        alive, history = open_.totals.flatten() > -torch.inf, open_.paths.flatten(0, 1)
        outlook = stepper.look(tokens, state, step, alive, history)
        log_probs = outlook.log_probs.masked_fill(~outlook.usable.unsqueeze(1), -torch.inf)
        size, before = log_probs.size(1), open_.totals.size(1)
        if step == 0:
            _refuse(rows.sentences * size**own.max_length, max_sequences)
        whole = open_.grown(log_probs)
        ends = whole.paths[0, :, -1] == (-1 if own.eos is None else own.eos)
        done.append(whole.some(ends))
        open_ = whole.some(~ends)
        if step + 1 < own.max_length:
            parents = (~ends).nonzero().squeeze(1) // size
            base = torch.arange(0, rows.sentences * before, before, device=rows.device)
            index = (base.unsqueeze(1) + parents).flatten()
            state = stepper.model.reorder(outlook.state, index)
            tokens = open_.paths[:, :, -1].flatten()
    stepper.any_left(open_.totals > -torch.inf)
    return done, open_


def _best(
    levels: list[_Level], normalizer: Normalizer, n: int, own: Constraints, *, finished: bool
) -> Hypotheses:
    """The n best of some levels; of equal ones the shorter, then the one of lower tokens."""
    T = own.max_length
    tokens, gains, totals, lengths = [], [], [], []
    for paths, steps, logs in levels:
        room = (0, T - paths.size(2))
        tokens.append(F.pad(paths, room, value=own.pad))
        gains.append(F.pad(steps, room))
        totals.append(logs)
        lengths.append(torch.full(logs.shape, paths.size(2), device=logs.device))
    # n places that nothing reached, so that there are always as many.
    log_probs = F.pad(torch.cat(totals, 1), (0, n), value=-torch.inf)
    count = F.pad(torch.cat(lengths, 1), (0, n)).masked_fill(log_probs == -torch.inf, 0)
    scores = normalizer.score(log_probs, count, T)
    order = scores.sort(dim=1, descending=True, stable=True).indices[:, :n]
    count = count.gather(1, order)
    absent = (count == 0).unsqueeze(2)
    return Hypotheses(
        _taken(F.pad(torch.cat(tokens, 1), (0, 0, 0, n)), order).masked_fill(absent, own.pad),
        count,
        scores.gather(1, order),
        log_probs.gather(1, order),
        _taken(F.pad(torch.cat(gains, 1), (0, 0, 0, n)), order).masked_fill(absent, 0),
        torch.full_like(count, finished, dtype=torch.bool) & (count > 0),
        None,
    )


def _behind(finished: Hypotheses, rest: Hypotheses, n: int) -> Hypotheses:
    """The n best: what has not ended goes behind, what has no probability to the very end."""
    lengths = torch.cat((finished.lengths, rest.lengths), 1)
    order = (lengths == 0).to(torch.int8).sort(dim=1, stable=True).indices[:, :n]
    pairs = zip(finished[:6], rest[:6], strict=True)
    one, two, three, four, five, six = (_taken(torch.cat(pair, 1), order) for pair in pairs)
    return Hypotheses(one, two, three, four, five, six, None)


def _taken(part: Tensor, order: Tensor) -> Tensor:
    """(B, n, ...) of (B, M, ...)."""
    return part[torch.arange(len(part), device=part.device).unsqueeze(1), order]


def _refuse(count: int, limit: int) -> None:
    if count > limit:
        raise ValueError(f"max_length: expected at most {limit:,} sequences, got up to {count:,}")


def _ends(targets: Tensor, eos: int | None, pad: int | None) -> tuple[Tensor, Tensor]:
    """Lengths, (B, n), and which targets are finished."""
    T = targets.size(2)
    places = torch.arange(T, device=targets.device)

    def first(token: int | None) -> Tensor:
        if token is None:
            return torch.full(targets.shape[:2], T, device=targets.device)
        return torch.where(targets == token, places, T).amin(2) if T else targets.sum(2)

    end, padding = first(eos), first(pad)
    whole = end < padding if eos is not None else torch.ones_like(end, dtype=torch.bool)
    return torch.minimum((end + 1).clamp(max=T), padding), whole


def _check_targets(targets: Tensor, size: int) -> None:
    low, high = (int(end) for end in targets.aminmax())
    if not 0 <= low <= high < size:
        raise ValueError(f"targets: expected tokens from 0 to {size - 1}, got {low} to {high}")
