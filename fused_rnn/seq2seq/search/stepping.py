# SPDX-License-Identifier: MIT
"""The base of all searches: rows of a state, steps of the model, and what a step may choose."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ...ops.selection import Best, LogProbs, best, broken, log_softmax, top
from ..models.interfaces import Steps, attention_of
from .constraints import Constraints, ban_repeated


class Outlook(NamedTuple):
    """The log-probabilities that a step leaves to choose from, and the state after it."""

    log_probs: Tensor  # (N, V), float32, -inf where a constraint forbids
    # Rows with probability somewhere, bool, (N,); what the others hold has no meaning.
    usable: Tensor
    state: Any


class Choice(NamedTuple):
    """The tokens that a step chose for each row, and the state after it."""

    found: Best  # as Outlook has log-probabilities
    state: Any


class Rows(NamedTuple):
    """The number of sentences that a state is of, and its device."""

    sentences: int
    device: torch.device


def rows_of(model: Steps, state: Any) -> Rows:
    """Returns the number of rows of a state, whatever it is made of.

    It is the size along which states that `reorder` makes of one row and of two rows differ. A
    state in which nothing differs is one row.

    Raises:
        ValueError: parts of the state have different numbers of rows, or it has none.
    """
    whole = list(parts(state))
    device = next((part.device for part in whole if isinstance(part, Tensor)), torch.device("cpu"))

    def first(times: int) -> list[Any]:
        index = torch.zeros(times, dtype=torch.int64, device=device)
        return list(parts(model.reorder(state, index)))

    empty = [isinstance(part, Tensor) and 0 in part.shape for part in whole]
    if any(empty) and _shapes(first(0)) == _shapes(whole):
        raise ValueError("state: expected at least one row, got none")
    one, two = first(1), first(2)
    counts = set()
    for part, single, double in zip(whole, one, two, strict=False):
        if isinstance(part, Tensor):
            sizes = zip(part.shape, single.shape, double.shape, strict=False)
            counts |= {size for size, a, b in sizes if (a, b) == (1, 2)}
    if len(counts) > 1:
        raise ValueError(f"state: expected one number of rows, got {sorted(counts)}")
    return Rows(counts.pop() if counts else 1, device)


def _shapes(leaves: list[Any]) -> list[torch.Size]:
    return [part.shape for part in leaves if isinstance(part, Tensor)]


@contextmanager
def evaluating(model: object) -> Iterator[None]:
    """Without gradients and, where the model is a module, without dropout."""
    training = isinstance(model, nn.Module) and model.training
    with torch.no_grad():
        if isinstance(model, nn.Module) and training:
            model.eval()
        try:
            yield
        finally:
            if isinstance(model, nn.Module):
                model.train(training)


class Stepper:
    """Steps of a model with the choices that constraints leave.

    Args:
        model: see `Steps`.
        constraints: checked here; what depends on the size of the vocabulary, at the first step.
        rows: of the state, B.
        with_attention: whether `attention` is noted at each step.

    Raises:
        ValueError: the constraints do not fit.
    """

    def __init__(
        self, model: Steps, constraints: Constraints, rows: Rows, *, with_attention: bool = False
    ) -> None:
        constraints.check(rows.sentences)
        self.model, self.constraints, self.rows = model, constraints, rows
        self.with_attention = with_attention
        self.attention: Tensor | None = None  # (N, S), of the last step
        prefix = constraints.prefix
        self._prefix = None if prefix is None else prefix.to(rows.device, torch.int64)
        # Tokens never generated, and those that are not before min_length.
        self._excluded: Tensor | None = None
        self._excluded_early: Tensor | None = None
        # Whether some row that matters has had logits that are no numbers; written in place.
        self.broken = torch.zeros((), dtype=torch.bool, device=rows.device)

    def start(self, bos: int | Tensor, each: int) -> Tensor:
        """Returns the first tokens, (B * each,).

        Raises:
            ValueError: bos is a tensor of another shape than (B,).
        """
        if isinstance(bos, Tensor) and bos.dim():
            if bos.shape != (self.rows.sentences,):
                raise ValueError(f"bos: expected ({self.rows.sentences},), got {tuple(bos.shape)}")
            return bos.to(self.rows.device).repeat_interleave(each)
        size = (self.rows.sentences * each,)
        return torch.full(size, int(bos), dtype=torch.int64, device=self.rows.device)

    def spread(self, state: Any, each: int) -> Any:
        """Returns a state with each row `each` times, side by side."""
        index = torch.arange(self.rows.sentences, device=self.rows.device).repeat_interleave(each)
        return self.model.reorder(state, index)

    def look(
        self, tokens: Tensor, state: Any, step: int, alive: Tensor, history: Tensor
    ) -> Outlook:
        """Returns what the model and the constraints say of the next token.

        Args:
            tokens: the last ones, (N,).
            state: before them.
            step: how many tokens have been generated.
            alive: rows that matter, bool, (N,).
            history: the tokens generated, (N, step); only no_repeat_ngram looks at it.

        Raises:
            ValueError: at the first step, if the vocabulary and the constraints do not fit.
        """
        logits, state = self._logits(tokens, state, step)
        log_probs, peaks = self._constrained(logits, step, history)
        self.broken |= broken(peaks, alive)
        return Outlook(log_probs, peaks.isfinite(), state)

    def best(self, tokens: Tensor, state: Any, step: int, history: Tensor, k: int) -> Choice:
        """Returns the k likeliest next tokens, or as many as there are; see `look`.

        Whether logits are numbers is left to whoever goes on from them.
        """
        logits, state = self._logits(tokens, state, step)
        k = min(k, logits.size(1))
        if self._forces(step) or self._bans_repetition(step):
            log_probs, peaks = self._constrained(logits, step, history)
            return Choice(Best(*top(log_probs, k), peaks), state)
        return Choice(best(logits, k, self._excluded_at(step)), state)

    def drawn(
        self,
        tokens: Tensor,
        state: Any,
        step: int,
        history: Tensor,
        draw: Callable[[Tensor], Tensor],
    ) -> Choice:
        """Returns the next tokens that `draw` makes, (N,), of log-probabilities; see `best`."""
        logits, state = self._logits(tokens, state, step)
        log_probs, peaks = self._constrained(logits, step, history)
        chosen = draw(log_probs).unsqueeze(1)
        return Choice(Best(log_probs.gather(1, chosen), chosen, peaks), state)

    def any_left(self, alive: Tensor) -> bool:
        """Returns whether any row matters still; the one question the host asks of the device.

        Raises:
            ValueError: logits were NaN or infinite.
        """
        left, wrong = torch.stack((alive.any(), self.broken)).tolist()
        if wrong:
            raise ValueError("logits: expected numbers below infinity, got NaN or infinity")
        return bool(left)

    def _check_vocabulary(self, logits: Tensor) -> None:
        if logits.dim() != 2:
            raise ValueError(f"logits: expected (N, V), got {tuple(logits.shape)}")
        self.constraints.check_tokens(logits.size(-1))
        own, excluded = self.constraints, self.constraints.excluded(logits.size(-1))
        early = excluded if own.eos is None else [*excluded, own.eos]
        self._excluded = torch.tensor(excluded, device=logits.device) if excluded else None
        self._excluded_early = torch.tensor(early, device=logits.device) if early else None

    def _logits(self, tokens: Tensor, state: Any, step: int) -> tuple[Tensor, Any]:
        """The logits after one more step of the model, (N, V), float32, and the state behind it."""
        logits, state = self.model.step(tokens, state)
        if step == 0:
            self._check_vocabulary(logits)
        if self.with_attention:
            self.attention = attention_of(self.model, state).float()
        return logits.float(), state

    def _forces(self, step: int) -> bool:
        return self._prefix is not None and step < self._prefix.size(1)

    def _bans_repetition(self, step: int) -> bool:
        return 0 < self.constraints.no_repeat_ngram <= step

    def _excluded_at(self, step: int) -> Tensor | None:
        return self._excluded_early if step + 1 < self.constraints.min_length else self._excluded

    def _constrained(self, logits: Tensor, step: int, history: Tensor) -> LogProbs:
        """Log-probabilities, -inf for what may not come next."""
        log_probs, peaks = log_softmax(logits)
        forced = None
        if self._prefix is not None and self._forces(step):
            forced = self._prefix[:, step].repeat_interleave(len(log_probs) // self.rows.sentences)
            free = forced == self.constraints.pad
            forced = forced.masked_fill(free, 0).unsqueeze(1)
            kept = log_probs.gather(1, forced)
        excluded = self._excluded_at(step)
        if excluded is not None:
            log_probs.index_fill_(1, excluded, -torch.inf)
        if self._bans_repetition(step):
            ban_repeated(log_probs, history, self.constraints.no_repeat_ngram)
        if forced is not None:
            kept = torch.where(free.unsqueeze(1), log_probs.gather(1, forced), kept)
            log_probs.masked_fill_(~free.unsqueeze(1), -torch.inf)
            log_probs.scatter_(1, forced, kept)
        return LogProbs(log_probs, peaks)


def parts(state: Any) -> Iterator[Any]:
    """Returns the leaves of a state, in one order."""
    if isinstance(state, Tensor):
        yield state
    elif isinstance(state, Mapping):
        for key in state:
            yield from parts(state[key])
    elif isinstance(state, tuple | list):
        for part in state:
            yield from parts(part)
    elif is_dataclass(state) and not isinstance(state, type):
        for field in fields(state):
            yield from parts(getattr(state, field.name))
    else:
        yield state
