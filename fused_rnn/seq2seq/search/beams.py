# SPDX-License-Identifier: MIT
"""The notes of a beam search's steps, and the sequences read back from them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ...ops.selection import Notes
from .constraints import Constraints
from .hypotheses import Hypotheses, Normalizer


class Beams(NamedTuple):
    """All that the steps noted."""

    notes: Notes
    attention: list[Tensor]  # of each step, (B, K, S)

    @classmethod
    def empty(cls, steps: int, sentences: int, size: int, device: torch.device) -> Beams:
        """Returns room for some steps of a search."""
        shape = (steps, sentences, size)

        def numbers() -> Tensor:
            return torch.zeros(shape, dtype=torch.int64, device=device)

        def logs() -> Tensor:
            return torch.full(shape, -torch.inf, dtype=torch.float32, device=device)

        notes = Notes(numbers(), numbers(), logs(), logs(), numbers(), logs())
        return cls(notes, [])

    def roomier(self) -> Beams:
        """Returns the same with room for twice the steps."""
        steps, sentences, size = self.notes.tokens.shape
        more = Beams.empty(steps, sentences, size, self.notes.tokens.device)
        both = (torch.cat(pair) for pair in zip(self.notes, more.notes, strict=True))
        return self._replace(notes=Notes(*both))


def traced(
    beams: Beams,
    live: Tensor,
    steps: int,
    n_best: int,
    own: Constraints,
    normalizer: Normalizer,
) -> Hypotheses:
    """Returns the best hypotheses, read back from where they ended.

    Args:
        beams: what was noted.
        live: log-probabilities of what had not ended at the last step, or at its sentence's limit,
            (B, K).
        steps: how many were made.
        n_best: hypotheses returned for each sentence.
        own: constraints of the search.
        normalizer: of the scores.
    """
    B, K = live.shape
    # Time before place: of equal scores, the one that ended first.
    logs = beams.notes.ended[:steps].transpose(0, 1).flatten(1)  # (B, steps * K)
    lengths = torch.arange(1, steps + 1, device=logs.device).repeat_interleave(K).expand(B, -1)
    at_end = torch.full_like(live, steps, dtype=torch.int64)
    if own.limits.each is not None:
        at_end = at_end.minimum(own.limits.each.to(live.device).unsqueeze(1))
    all_logs = torch.cat((logs, live), 1)
    all_lengths = torch.cat((lengths, at_end), 1)
    all_scores = normalizer.score(all_logs, all_lengths, steps)
    # Unfinished ones go behind all finished ones: sorted apart, then joined.
    over = all_scores[:, : steps * K].sort(dim=1, descending=True, stable=True).indices
    rest = all_scores[:, steps * K :].sort(dim=1, descending=True, stable=True).indices
    order = torch.cat((over[:, :n_best], rest[:, :n_best] + steps * K), 1)
    reached = all_logs.gather(1, order) > -torch.inf
    behind = (~reached).to(torch.int8).sort(dim=1, stable=True).indices[:, :n_best]
    order, reached = order.gather(1, behind), reached.gather(1, behind)
    finished = (order < steps * K) & reached
    lengths = all_lengths.gather(1, order).masked_fill(~reached, 0)
    # Finished: the parent of its end; unfinished: its own place at its last step.
    parents = beams.notes.end_parents[:steps].transpose(0, 1).flatten(1)
    nodes = torch.cat((parents, torch.arange(K, device=logs.device).expand(B, -1)), 1)
    gains = beams.notes.end_gains[:steps].transpose(0, 1).flatten(1)
    end_gains = torch.cat((gains, live), 1).gather(1, order)
    tokens, each, seen = _path(
        beams, nodes.gather(1, order), lengths, finished, end_gains, steps, own
    )
    scores, log_probs = all_scores.gather(1, order), all_logs.gather(1, order)
    return Hypotheses(tokens, lengths, scores, log_probs, each, finished, seen)


def _path(
    beams: Beams,
    nodes: Tensor,
    lengths: Tensor,
    finished: Tensor,
    end_gains: Tensor,
    steps: int,
    own: Constraints,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Tokens, their log-probabilities and attention, by following parents: (B, n, T)."""
    number = torch.arange(steps, device=nodes.device).view(-1, 1, 1)
    at_end = finished & (lengths == number + 1)  # (steps, B, n)
    inside = lengths - finished.to(torch.int64) > number
    # Places at each step, and before the first.
    places = nodes.new_empty(steps + 1, *nodes.shape)
    places[steps] = nodes
    for step in reversed(range(steps)):
        nodes = torch.where(inside[step], beams.notes.parents[step].gather(1, nodes), nodes)
        places[step] = nodes
    here = places[1:]
    tokens = beams.notes.tokens[:steps].gather(2, here).masked_fill(~inside, own.pad)
    if own.eos is not None:
        tokens.masked_fill_(at_end, own.eos)
    gains = beams.notes.gains[:steps].gather(2, here).masked_fill(~inside, 0)
    gains = torch.where(at_end, end_gains, gains)
    width = own.max_length if own.limits.each is None else steps
    seen = None
    if beams.attention:
        looks = zip(beams.attention, places, strict=False)
        rows = [look.gather(1, at.unsqueeze(2).expand(-1, -1, look.size(2))) for look, at in looks]
        seen = torch.stack(rows).masked_fill(~(inside | at_end).unsqueeze(3), 0)
        seen = F.pad(seen.permute(1, 2, 0, 3).contiguous(), (0, 0, 0, width - steps))
    return _widened(tokens, width, own.pad), _widened(gains, width, 0), seen


def _widened(noted: Tensor, width: int, value: float) -> Tensor:
    """(B, n, width) of (steps, B, n)."""
    return F.pad(noted.permute(1, 2, 0).contiguous(), (0, width - len(noted)), value=value)
