# SPDX-License-Identifier: MIT
"""The constraints on what a search may generate, and the limits on how much of it."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

import torch
from torch import Tensor


class Limits(NamedTuple):
    """The most tokens of a sequence, `<eos>` counted."""

    longest: int
    shortest: int
    # Of each sentence, (B,); None: the same of all.
    each: Tensor | None

    @classmethod
    def of(cls, max_length: int | Tensor) -> Limits:
        """Returns the limits that one number, or one for each sentence, (B,), gives.

        Raises:
            ValueError: one is below 1, or the tensor is not of integers in one dimension.
        """
        if not isinstance(max_length, Tensor):
            limits = cls(int(max_length), int(max_length), None)
        elif max_length.dim() != 1 or max_length.dtype.is_floating_point or not len(max_length):
            shape = f"{max_length.dtype} {tuple(max_length.shape)}"
            raise ValueError(f"max_length: expected integers, (B,), got {shape}")
        else:
            numbers = max_length.tolist()
            limits = cls(max(numbers), min(numbers), max_length.to(torch.int64))
        if limits.shortest < 1:
            raise ValueError(f"max_length: expected at least 1, got {limits.shortest}")
        return limits


class Constraints(NamedTuple):
    """The constraints on what may be generated; the model's probabilities are not renormalised.

    Args:
        eos: ends a sequence; None: nothing does.
        pad: marks the free places of `prefix`.
        limits: most tokens of a sequence.
        min_length: fewest tokens of a finished sequence, `<eos>` counted.
        no_repeat_ngram: no n-gram of this length comes twice in a sequence; 0: any may.
        prefix: tokens that sequences must begin with, (B, P), `pad` where they are free.
        ban: tokens never generated.
        allow: the only tokens generated, besides `eos`; None: all.
    """

    eos: int | None
    pad: int
    limits: Limits
    min_length: int = 0
    no_repeat_ngram: int = 0
    prefix: Tensor | None = None
    ban: Collection[int] = ()
    allow: Collection[int] | None = None

    @property
    def max_length(self) -> int:
        """The most tokens of any sequence."""
        return self.limits.longest

    def check(self, sentences: int) -> None:
        """Raises ValueError unless the numbers fit together, and to so many sentences, B."""
        least, each = self.limits.shortest, self.limits.each
        if each is not None and len(each) != sentences:
            raise ValueError(f"max_length: expected {sentences} of them, got {len(each)}")
        if not 0 <= self.min_length <= least:
            raise ValueError(f"min_length: expected 0 to max_length {least}, got {self.min_length}")
        if self.no_repeat_ngram < 0:
            raise ValueError(f"no_repeat_ngram: expected 0 or more, got {self.no_repeat_ngram}")
        prefix = self.prefix
        if prefix is None:
            return
        if prefix.dim() != 2 or prefix.size(1) > least:
            raise ValueError(
                f"prefix: expected (B, P) with P at most max_length {least}, got "
                f"{tuple(prefix.shape)}"
            )
        if prefix.size(0) != sentences:
            raise ValueError(f"prefix: expected {sentences} rows, got {prefix.size(0)}")
        if prefix.dtype.is_floating_point:
            raise ValueError(f"prefix: expected integers, got {prefix.dtype}")

    def check_tokens(self, size: int) -> None:
        """Raises ValueError if a token lies outside a vocabulary of this size."""
        own: dict[str, Collection[int]] = {
            "eos": () if self.eos is None else (self.eos,),
            "ban": self.ban,
            "allow": self.allow or (),
            "prefix": self._forced(),
        }
        for name, numbers in own.items():
            wrong = [int(number) for number in numbers if not 0 <= number < size]
            if wrong:
                raise ValueError(f"{name}: expected tokens from 0 to {size - 1}, got {wrong}")

    def excluded(self, size: int) -> list[int]:
        """Returns the tokens of a vocabulary of this size that are never generated."""
        found = set(map(int, self.ban))
        if self.allow is not None:
            kept = {*map(int, self.allow), *(() if self.eos is None else (self.eos,))}
            found |= set(range(size)) - kept
        return sorted(found)

    def _forced(self) -> list[int]:
        if self.prefix is None:
            return []
        return sorted({number for row in self.prefix.tolist() for number in row} - {self.pad})


def ban_repeated(log_probs: Tensor, history: Tensor, n: int) -> None:
    """Excludes, in place, tokens that would make an n-gram come twice; history is (N, t)."""
    followers = history[:, n - 1 :]  # (N, t - n + 1)
    if n == 1:
        same = torch.ones_like(followers, dtype=torch.bool)
    else:
        windows = history.unfold(1, n - 1, 1)[:, :-1]  # (N, t - n + 1, n - 1)
        same = (windows == history[:, None, 1 - n :]).all(-1)
    values = log_probs.gather(1, followers).masked_fill_(same, -torch.inf)
    # A token may follow several times: the lowest value must win, whatever the order.
    log_probs.scatter_reduce_(1, followers, values, "amin")
