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

from ..selection import likeliest, top
from .graphs import Captured, growth
from .hypotheses import Hypotheses, Normalizer
from .interfaces import Steps
from .preparation import searching
from .rowwise import one_by_one
from .stepping import Constraints, Outlook, Stepper

STOPS = ("k", "exact")


class _Beams(NamedTuple):
    """All that the steps noted: T steps of K live hypotheses and of K that may have ended."""

    tokens: Tensor  # (T, B, K)
    parents: Tensor  # (T, B, K), place among the live ones a step earlier
    gains: Tensor  # (T, B, K), log-probability of the token
    ended: Tensor  # (T, B, K), log-probability of what finished, -inf elsewhere
    end_parents: Tensor  # (T, B, K)
    end_gains: Tensor  # (T, B, K)
    attention: list[Tensor]  # of each step, (B, K, S)


# What is written at each step, into tensors.
_KEPT = _Beams._fields[:-1]


class _Carried(NamedTuple):
    """What a step leaves to the next one."""

    tokens: Tensor  # (N,)
    state: Any
    live: Tensor  # (B, K)
    ended: Tensor  # (B,)


_Graph = Captured[_Carried, _Beams]


def greedy_search(
    model: Steps,
    state: Any,
    *,
    bos: int | Tensor,
    eos: int | None,
    pad: int,
    max_length: int,
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
    constraints = Constraints(eos, pad, max_length, min_length, no_repeat_ngram, prefix, ban, allow)
    with searching(
        model, state, constraints, normalization, length_penalty, return_attention, check_every
    ) as (stepper, normalizer):
        return one_by_one(stepper, normalizer, state, bos, likeliest, 1, check_every)


def beam_search(
    model: Steps,
    state: Any,
    *,
    bos: int | Tensor,
    eos: int | None,
    pad: int,
    max_length: int,
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
        max_length: most tokens generated, T.
        beam_size: k. With one, the search ends where its hypothesis does, whatever `stop` says.
        n_best: sequences returned for each sentence, at most beam_size. Default 1.
        length_penalty, normalization: a, and the divisor of log P: "length" L^a, "gnmt"
            ((5 + L) / 6)^a, "none" 1.
        stop: "k": a sentence is done when k hypotheses have finished; "exact": when none that
            is live can still come to score better than the n_best finished ones.
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
    constraints = Constraints(eos, pad, max_length, min_length, no_repeat_ngram, prefix, ban, allow)
    with searching(
        model, state, constraints, normalization, length_penalty, return_attention, check_every
    ) as (stepper, normalizer):
        search = _Search(stepper, normalizer, beam_size, n_best, stop)
        return search.run(state, bos, check_every)


class _Search:
    """One beam search; letters as everywhere: B sentences, K hypotheses each, N = B * K."""

    def __init__(
        self, stepper: Stepper, normalizer: Normalizer, size: int, n_best: int, stop: str
    ) -> None:
        if stop not in STOPS:
            raise ValueError(f"stop: expected one of {STOPS}, got {stop!r}")
        self.stepper, self.normalizer, self.K, self.n_best = stepper, normalizer, size, n_best
        self.exact = stop == "exact" and size > 1
        rows, T = stepper.rows, stepper.constraints.max_length
        self.B = rows.sentences
        shape = (T, self.B, size)

        def numbers() -> Tensor:
            return torch.zeros(shape, dtype=torch.int64, device=rows.device)

        def logs() -> Tensor:
            return torch.full(shape, -torch.inf, dtype=torch.float32, device=rows.device)

        self.beams = _Beams(numbers(), numbers(), logs(), logs(), numbers(), logs(), [])
        self.live = logs()[0].clone()
        self.ended = torch.zeros(self.B, dtype=torch.int64, device=rows.device)
        # The best scores so far; only the exact rule looks at them.
        self.best = self.live[:, :n_best].clone()
        self.live[:, 0] = 0
        # Of row b * K + k, the first row of its sentence.
        self.base = torch.arange(0, self.B * size, size, device=rows.device).unsqueeze(1)

    def run(self, state: Any, bos: int | Tensor, check_every: int) -> Hypotheses:
        stepper, own = self.stepper, self.stepper.constraints
        tokens, state = stepper.start(bos, self.K), stepper.spread(state, self.K)
        history = tokens.new_zeros(len(tokens), 0)
        graph: _Graph | None = None
        captured_from = growth(stepper, alike=not self.exact).captured_from
        steps = 0
        for step in range(own.max_length):
            if step == captured_from:
                graph = self._captured(tokens, state, step)
            if graph is not None:
                self._note(graph(), step)
            else:
                alive = self.live > -torch.inf
                outlook = stepper.look(tokens, state, step, alive.flatten(), history)
                index, tokens = self._advance(outlook, step)
            steps = step + 1
            last = steps == own.max_length
            if (steps % check_every == 0 or last) and not stepper.any_left(self.live > -torch.inf):
                break
            if graph is None and not last:
                state = stepper.model.reorder(outlook.state, index)
            if own.no_repeat_ngram:
                history = torch.cat((history[index], tokens.unsqueeze(1)), 1)
        return self._traced(steps)

    def _captured(self, tokens: Tensor, state: Any, step: int) -> _Graph:
        """This step and all behind it as a CUDA graph, which notes into beams of one step."""
        own = self.beams
        one = own._replace(**{name: getattr(own, name)[:1].clone() for name in _KEPT}, attention=[])

        def body(carried: _Carried) -> tuple[_Carried, _Beams]:
            self.beams, self.live, self.ended = one, carried.live, carried.ended
            alive = (carried.live > -torch.inf).flatten()
            outlook = self.stepper.look(
                carried.tokens, carried.state, step, alive, tokens.new_zeros(len(tokens), 0)
            )
            index, new = self._advance(outlook, 0)
            after = self.stepper.model.reorder(outlook.state, index)
            return _Carried(new, after, self.live, self.ended), one

        graph = Captured(body, _Carried(tokens, state, self.live, self.ended))
        self.beams, self.live, self.ended = own, graph.carried.live, graph.carried.ended
        return graph

    def _note(self, one: _Beams, step: int) -> None:
        """Keeps what a replay noted."""
        for name in _KEPT:
            getattr(self.beams, name)[step] = getattr(one, name)[0]
        self.beams.attention.extend(look.clone() for look in one.attention)

    def _advance(self, outlook: Outlook, step: int) -> tuple[Tensor, Tensor]:
        """One step of all sentences; rows to go on from, (N,), and their tokens, (N,)."""
        K, eos, beams = self.K, self.stepper.constraints.eos, self.beams
        each = min(2 * K, outlook.log_probs.size(1))
        found = top(outlook.log_probs, each)
        live = self.live.flatten().masked_fill(~outlook.usable, -torch.inf).unsqueeze(1)
        totals = live + found.values.masked_fill(~outlook.usable.unsqueeze(1), 0)
        totals = totals.view(self.B, -1)  # (B, K * each)
        totals, order = totals.sort(dim=1, descending=True, stable=True)
        # All that can matter: k at most end, k live on.
        totals, order = totals[:, : 2 * K], order[:, : 2 * K]
        parents = order.div(each, rounding_mode="floor")
        tokens = found.indices.view(self.B, -1).gather(1, order)
        gains = found.values.view(self.B, -1).gather(1, order)
        if self.stepper.attention is not None:
            beams.attention.append(self.stepper.attention.unflatten(0, (self.B, K)))
        if eos is not None:
            ends = tokens == eos
            beams.ended[step] = totals[:, :K].masked_fill(~ends[:, :K], -torch.inf)
            beams.end_parents[step] = parents[:, :K]
            beams.end_gains[step] = gains[:, :K]
            totals = totals.masked_fill(ends, -torch.inf)
        self.live, kept = totals.sort(dim=1, descending=True, stable=True)
        self.live, kept = self.live[:, :K], kept[:, :K]
        beams.tokens[step] = tokens.gather(1, kept)
        beams.parents[step] = parents.gather(1, kept)
        beams.gains[step] = gains.gather(1, kept)
        if eos is not None:
            self._retire(step)
        return (beams.parents[step] + self.base).flatten(), beams.tokens[step].flatten()

    def _retire(self, step: int) -> None:
        """Lets the live hypotheses of sentences that are done die."""
        ended = self.beams.ended[step]
        self.ended = self.ended + (ended > -torch.inf).sum(1)
        done = self.ended >= self.K
        if self.exact:
            scores = torch.cat((self.best, self.normalizer.score(ended, step + 1)), 1)
            self.best = scores.sort(dim=1, descending=True).values[:, : self.n_best]
            if step + 1 == self.stepper.constraints.max_length:
                return
            hope = self.normalizer.attainable(self.live[:, 0], step + 1)
            done = self.best[:, -1] >= hope
        self.live = self.live.masked_fill(done.unsqueeze(1), -torch.inf)

    def _traced(self, steps: int) -> Hypotheses:
        """The best hypotheses, read back from where they ended."""
        B, K, beams = self.B, self.K, self.beams
        # Time before place: of equal scores, the one that ended first.
        logs = beams.ended[:steps].transpose(0, 1).flatten(1)  # (B, steps * K)
        lengths = torch.arange(1, steps + 1, device=logs.device).repeat_interleave(K).expand(B, -1)
        live = self.live
        all_logs = torch.cat((logs, live), 1)
        all_lengths = torch.cat((lengths, torch.full_like(live, steps, dtype=torch.int64)), 1)
        all_scores = self.normalizer.score(all_logs, all_lengths)
        # Unfinished ones go behind all finished ones: sorted apart, then joined.
        over = all_scores[:, : steps * K].sort(dim=1, descending=True, stable=True).indices
        rest = all_scores[:, steps * K :].sort(dim=1, descending=True, stable=True).indices
        order = torch.cat((over[:, : self.n_best], rest[:, : self.n_best] + steps * K), 1)
        reached = all_logs.gather(1, order) > -torch.inf
        behind = (~reached).to(torch.int8).sort(dim=1, stable=True).indices[:, : self.n_best]
        order, reached = order.gather(1, behind), reached.gather(1, behind)
        finished = (order < steps * K) & reached
        lengths = all_lengths.gather(1, order).masked_fill(~reached, 0)
        # Finished: the parent of its end; unfinished: its own place at the last step.
        own = beams.end_parents[:steps].transpose(0, 1).flatten(1)
        nodes = torch.cat((own, torch.arange(K, device=own.device).expand(B, -1)), 1)
        gains = beams.end_gains[:steps].transpose(0, 1).flatten(1)
        end_gains = torch.cat((gains, live), 1).gather(1, order)
        path = self._path(nodes.gather(1, order), lengths, finished, end_gains, steps)
        return Hypotheses(
            path[0],
            lengths,
            all_scores.gather(1, order),
            all_logs.gather(1, order),
            path[1],
            finished,
            path[2],
        )

    def _path(
        self, nodes: Tensor, lengths: Tensor, finished: Tensor, end_gains: Tensor, steps: int
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Tokens, their log-probabilities and attention, by following parents: (B, n, T)."""
        own, beams = self.stepper.constraints, self.beams
        shape = (*nodes.shape, own.max_length)
        tokens = torch.full(shape, own.pad, dtype=torch.int64, device=nodes.device)
        gains = torch.zeros(shape, dtype=torch.float32, device=nodes.device)
        seen = None
        if beams.attention:
            seen = gains.new_zeros(*shape, beams.attention[0].size(-1))
        for step in reversed(range(steps)):
            at_end = finished & (lengths == step + 1)
            inside = lengths - finished.to(torch.int64) > step
            token = beams.tokens[step].gather(1, nodes)
            gain = torch.where(inside, beams.gains[step].gather(1, nodes), 0.0)
            nodes = torch.where(inside, beams.parents[step].gather(1, nodes), nodes)
            tokens[:, :, step] = torch.where(inside, token, tokens[:, :, step])
            gains[:, :, step] = torch.where(at_end, end_gains, gain)
            if own.eos is not None:
                tokens[:, :, step].masked_fill_(at_end, own.eos)
            if seen is not None:
                look = beams.attention[step]
                rows = nodes.unsqueeze(2).expand(-1, -1, look.size(2))
                there = (inside | at_end).unsqueeze(2)
                seen[:, :, step] = look.gather(1, rows).masked_fill(~there, 0)
        return tokens, gains, seen
