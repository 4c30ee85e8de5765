# SPDX-License-Identifier: MIT
"""Beam search, and greedy search: the beam of one.

Conventions. k hypotheses stay live at every step. Of a step's candidates, all one-token
continuations of the live ones ranked by log-probability, the best 2k are looked at: one that ends
in `<eos>` finishes if it ranks among the k best, and the k best of the others live on. L, the
length of a hypothesis, counts generated tokens, those of a forced prefix and `<eos>` included;
its score is log P / divisor(L). Hypotheses still live at max_length are returned as they stand,
marked unfinished, behind all finished ones. Of equal candidates the one of the better hypothesis
comes first, then that of the lower token. What has no probability is never returned.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...ops.selection import Best, Notes, Tally, advance
from ..models.interfaces import Steps
from .beams import Beams, traced
from .constraints import Constraints, Limits
from .graphs import Captured, growth
from .hypotheses import Hypotheses, Normalizer
from .preparation import searching
from .rowwise import FIRST_STEPS, one_by_one
from .stepping import Stepper

STOPS = ("k", "exact")


class _Carried(NamedTuple):
    """The state of a beam search, which a step leaves to the next one."""

    tokens: Tensor  # (N,)
    state: Any
    live: Tensor  # (B, K)
    ended: Tensor  # (B,)
    cut: _Cut | None


class _Cut(NamedTuple):
    """The steps left to each sentence's own limit, and what was live there."""

    left: Tensor  # steps to it, (B,)
    live: Tensor  # log-probabilities of what was live there, -inf before, (B, K)


_Graph = Captured[_Carried, Beams]


def greedy_search(
    model: Steps,
    state: Any,
    *,
    bos: int | Tensor,
    eos: int | None,
    pad: int,
    max_length: int | Tensor,
    length_penalty: float = 0.75,
    normalization: str = "length",
    min_length: int = 0,
    no_repeat_ngram: int = 0,
    prefix: Tensor | None = None,
    ban: Collection[int] = (),
    allow: Collection[int] | None = None,
    return_attention: bool = False,
    check_every: int = 8,
) -> Hypotheses:
    """Returns, for each sentence, the sequence of likeliest next tokens: n = 1.

    Args, conventions and errors are those of `beam_search` with a beam of one.
    """
    limits = Limits.of(max_length)
    constraints = Constraints(eos, pad, limits, min_length, no_repeat_ngram, prefix, ban, allow)
    with searching(
        model, state, constraints, normalization, length_penalty, return_attention, check_every
    ) as (stepper, normalizer):
        return one_by_one(stepper, normalizer, state, bos, None, 1, check_every)


def beam_search(
    model: Steps,
    state: Any,
    *,
    bos: int | Tensor,
    eos: int | None,
    pad: int,
    max_length: int | Tensor,
    beam_size: int = 5,
    n_best: int = 1,
    length_penalty: float = 0.75,
    normalization: str = "length",
    stop: str = "k",
    min_length: int = 0,
    no_repeat_ngram: int = 0,
    prefix: Tensor | None = None,
    ban: Collection[int] = (),
    allow: Collection[int] | None = None,
    return_attention: bool = False,
    check_every: int = 8,
) -> Hypotheses:
    """Returns the best sequences that a beam finds, (B, n_best); see this module's conventions.

    Args:
        model: anything with `step(tokens (N,), state) -> (logits (N, V), state)` and
            `reorder(state, index (N,)) -> state`.
        state: of B rows, one a sentence.
        bos: fed first; one token, or one for each sentence, (B,).
        eos: ends a sequence. None: nothing does.
        pad: stands behind the end in the result, and marks the free places of `prefix`.
        max_length: most tokens generated, T; or of each sentence, (B,), and T the steps made.
        beam_size: k. With one, the search ends where its hypothesis does, whatever `stop` says.
        n_best: sequences returned for each sentence, at most beam_size. Default 1.
        length_penalty, normalization: a, and the divisor of log P: "length" L^a, "gnmt"
            ((5 + L) / 6)^a, "none" 1.
        stop: "k": a sentence is done when k hypotheses have finished; "exact": when none that
            is live can still come to score better than the n_best finished ones, for which more
            steps are needed the larger max_length is.
        min_length: fewest tokens of a finished sequence, `<eos>` counted. Default 0.
        no_repeat_ngram: no n-gram of this length comes twice in a sequence. Default 0: any may.
        prefix: tokens that sequences begin with, (B, P), `pad` where they are free; they count
            and score as others do, and go before all other constraints. Default None.
        ban, allow: tokens never generated, and the only ones besides `eos`; None: all.
        return_attention: whether the model's `attention(state)` (N, S) of each step is returned.
        check_every: steps between looks of the host at whether all is done. Default 8.

    Raises:
        ValueError: an argument does not fit, or logits are NaN or infinite.
    """
    if beam_size < 1:
        raise ValueError(f"beam_size: expected at least 1, got {beam_size}")
    if not 1 <= n_best <= beam_size:
        raise ValueError(f"n_best: expected 1 to beam_size {beam_size}, got {n_best}")
    limits = Limits.of(max_length)
    constraints = Constraints(eos, pad, limits, min_length, no_repeat_ngram, prefix, ban, allow)
    with searching(
        model, state, constraints, normalization, length_penalty, return_attention, check_every
    ) as (stepper, normalizer):
        search = _Search(stepper, normalizer, beam_size, n_best, stop)
        return search.hypotheses(state, bos, check_every)


class _Search:
    """One beam search; letters as everywhere: B sentences, K hypotheses each, N = B * K."""

    def __init__(
        self, stepper: Stepper, normalizer: Normalizer, size: int, n_best: int, stop: str
    ) -> None:
        if stop not in STOPS:
            raise ValueError(f"stop: expected one of {STOPS}, got {stop!r}")
        self.stepper, self.normalizer, self.K, self.n_best = stepper, normalizer, size, n_best
        self.exact = stop == "exact" and size > 1
        rows, limits = stepper.rows, stepper.constraints.limits
        self.B = rows.sentences
        # For more steps there will be more room.
        room = min(limits.longest, FIRST_STEPS)
        self.beams = Beams.empty(room, self.B, size, rows.device)
        ended = torch.zeros(self.B, dtype=torch.int64, device=rows.device)
        self.tally = Tally(ended, stepper.broken)
        nothing = self.beams.notes.ended[0]
        # The best scores so far; only the exact rule looks at them.
        self.best = nothing[:, :n_best].clone()
        self.cut = None
        if limits.each is not None:
            self.cut = _Cut(limits.each.to(rows.device), nothing.clone())
        # Of the beginning, the one hypothesis that there is at first.
        self.live = torch.zeros(self.B, 1, dtype=torch.float32, device=rows.device)

    def hypotheses(self, state: Any, bos: int | Tensor, check_every: int) -> Hypotheses:
        stepper, own = self.stepper, self.stepper.constraints
        tokens, state = stepper.start(bos, 1), stepper.spread(state, 1)
        history = tokens.new_zeros(len(tokens), 0)
        graph: _Graph | None = None
        captured_from = growth(stepper, alike=not self.exact).captured_from
        steps = 0
        for step in range(own.max_length):
            if step == len(self.beams.notes.tokens):
                self.beams = self.beams.roomier()
            if step == captured_from:
                graph = self._captured(tokens, state, step)
            if graph is not None:
                self._note(graph(), step)
            else:
                found, state = stepper.best(tokens, state, step, history, 2 * self.K)
                index, tokens = self._advance(found, step)
            steps = step + 1
            last = steps == own.max_length
            if (steps % check_every == 0 or last) and not stepper.any_left(self.live > -torch.inf):
                break
            if graph is None and not last:
                state = stepper.model.reorder(state, index)
            if own.no_repeat_ngram:
                history = torch.cat((history[index], tokens.unsqueeze(1)), 1)
        live = self.live if self.cut is None else self.cut.live
        return traced(self.beams, live, steps, self.n_best, own, self.normalizer)

    def _captured(self, tokens: Tensor, state: Any, step: int) -> _Graph:
        """This step and all behind it as a CUDA graph, which notes into beams of one step."""
        own = self.beams
        one = Beams(Notes(*(part[:1].clone() for part in own.notes)), [])

        def body(carried: _Carried) -> tuple[_Carried, Beams]:
            self.beams, self.live, self.cut = one, carried.live, carried.cut
            self.tally = self.tally._replace(ended=carried.ended)
            found, after = self.stepper.best(
                carried.tokens, carried.state, step, tokens.new_zeros(len(tokens), 0), 2 * self.K
            )
            index, new = self._advance(found, 0)
            after = self.stepper.model.reorder(after, index)
            return _Carried(new, after, self.live, self.tally.ended, self.cut), one

        graph = Captured(body, _Carried(tokens, state, self.live, self.tally.ended, self.cut))
        self.beams, self.live, self.cut = own, graph.carried.live, graph.carried.cut
        self.tally = self.tally._replace(ended=graph.carried.ended)
        return graph

    def _note(self, one: Beams, step: int) -> None:
        """Keeps what a replay noted."""
        for kept, new in zip(self.beams.notes, one.notes, strict=True):
            kept[step] = new[0]
        self.beams.attention.extend(look.clone() for look in one.attention)

    def _advance(self, found: Best, step: int) -> tuple[Tensor, Tensor]:
        """One step of all sentences; rows to go on from, (N,), and their tokens, (N,)."""
        eos, beams = self.stepper.constraints.eos, self.beams
        if self.stepper.attention is not None:
            look = self.stepper.attention.unflatten(0, (self.B, -1))
            beams.attention.append(look.expand(-1, self.K, -1))
        self.live, rows, tokens = advance(
            found, self.live, self.tally, beams.notes, step, eos=eos, retire=not self.exact
        )
        if self.exact and eos is not None:
            self._retire(step)
        if self.cut is not None:
            left = self.cut.left - 1
            over = (left == 0).unsqueeze(1)
            self.cut = _Cut(left, torch.where(over, self.live, self.cut.live))
            self.live = self.live.masked_fill(over, -torch.inf)
        return rows, tokens

    def _retire(self, step: int) -> None:
        """Lets the live hypotheses of sentences die that cannot come to score better."""
        scores = self.normalizer.score_at(self.beams.notes.ended[step], step + 1)
        scores = torch.cat((self.best, scores), 1)
        self.best = scores.sort(dim=1, descending=True).values[:, : self.n_best]
        if step + 1 == self.stepper.constraints.max_length:
            return
        hope = self.normalizer.attainable(self.live[:, 0], step + 1)
        done = self.best[:, -1] >= hope
        if self.cut is not None:
            # At its limit a sentence returns what is live, too.
            done = done & (self.cut.left > 1)
        self.live = self.live.masked_fill(done.unsqueeze(1), -torch.inf)
