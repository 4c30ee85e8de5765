# SPDX-License-Identifier: MIT
"""Beam search written out on lists, and models whose every answer is known."""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fused_rnn.ops.selection import log_softmax
from fused_rnn.seq2seq import Hypotheses

BOS, EOS, PAD = 0, 1, 9
BASE = dict(bos=BOS, eos=EOS, pad=PAD)
Path = tuple[int, ...]
Found = tuple[bool, float, Path, np.float32]


class Chaos:
    """Logits looked up by a hash of all that came before: every row's are its own, bit for bit."""

    def __init__(self, size: int, sharpness: float = 2.0, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.table = sharpness * torch.randn(997, size, generator=generator)
        self.known: dict[tuple[int, Path], np.ndarray] = {}

    def step(self, tokens: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        state = (state * 31 + tokens + 7) % 997
        return self.table[state], state

    def reorder(self, state: Tensor, index: Tensor) -> Tensor:
        return state[index]

    def log_probs(self, start: int, path: tuple[int, ...]) -> np.ndarray:
        """Of the token after a path."""
        if (start, path) not in self.known:
            state = torch.tensor([start])
            for token in (BOS, *path):
                logits, state = self.step(torch.tensor([token]), state)
            self.known[start, path] = log_softmax(logits).values[0].numpy()
        return self.known[start, path]


def divisor(name: str, length: int, penalty: float) -> np.float32:
    powers = {"length": length**penalty, "gnmt": ((5 + length) / 6) ** penalty, "none": 1.0}
    return np.float32(powers[name])


def allowed(path: Path, token: int, row: int, options: dict[str, Any]) -> bool:
    prefix = options.get("prefix")
    if prefix is not None and len(path) < prefix.size(1):
        forced = int(prefix[row, len(path)])
        if forced != PAD:
            return token == forced
    if token in options.get("ban", ()):
        return False
    if options.get("allow") is not None and token not in (*options["allow"], EOS):
        return False
    if token == EOS and len(path) + 1 < options.get("min_length", 0):
        return False
    n = options.get("no_repeat_ngram", 0)
    longer = (*path, token)
    grams = [longer[i : i + n] for i in range(len(longer) - n + 1)] if n else []
    return not grams or grams[-1] not in grams[:-1]


def naive(model: Chaos, start: int, row: int, T: int, **options: Any) -> list[Found]:
    """One sentence's beam search, on lists, as the conventions have it."""
    k = options.get("beam_size", 5)
    name, penalty = options.get("normalization", "length"), options.get("length_penalty", 0.75)
    n_best, stop = options.get("n_best", 1), options.get("stop", "k")
    live: list[tuple[np.float32, Path]] = [(np.float32(0), ())]
    done: list[Found] = []
    for t in range(1, T + 1):
        candidates = []
        for total, path in live:
            gains = model.log_probs(start, path)
            following = [v for v in range(len(gains)) if allowed(path, v, row, options)]
            candidates += [(total + gains[v], (*path, v)) for v in following]
        candidates.sort(key=lambda one: -one[0])
        ended = [one for one in candidates[:k] if one[1][-1] == EOS]
        done += [(True, total / divisor(name, t, penalty), p, total) for total, p in ended]
        live = [one for one in candidates[: 2 * k] if one[1][-1] != EOS][:k]
        if stop == "k" or k == 1:
            enough = len(done) >= k
        else:
            best = sorted(-s for _, s, *_ in done)[:n_best]
            ways = [divisor(name, n, penalty) for n in range(t + 1, T + 1)]
            hope = max((live[0][0] / way for way in ways), default=-math.inf) if live else -math.inf
            enough = t < T and len(best) == n_best and -best[-1] >= hope
        if enough or not live:
            live = []
            break
    done.sort(key=lambda one: -one[1])
    rest = [(False, total / divisor(name, T, penalty), path, total) for total, path in live]
    return (done + rest)[:n_best]


def listed(found: Hypotheses, row: int) -> list[Found]:
    """What stands in a row of a result, places that nothing reached left out."""
    result = []
    for n in range(found.tokens.size(1)):
        length = int(found.lengths[row, n])
        path = tuple(found.tokens[row, n].tolist())
        gains = found.token_log_probs[row, n]
        assert set(path[length:]) <= {PAD} and not gains[length:].any()
        ends = (bool(found.finished[row, n]), found.scores[row, n].numpy())
        if not length:
            assert ends == (False, -math.inf) and found.log_probs[row, n] == -math.inf
            continue
        assert ends[0] == (path[length - 1] == EOS)
        result.append((*ends, path[:length], found.log_probs[row, n].numpy()))
    return result


def same(found: list[Found], expected: list[Found]) -> None:
    assert [(f, p) for f, _, p, _ in found] == [(f, p) for f, _, p, _ in expected]
    # Bit for bit: sums in float32, in order, and one division.
    assert [(float(s), float(t)) for _, s, _, t in found] == [
        (float(s), float(t)) for _, s, _, t in expected
    ]


class Tree:
    """Given conditional probabilities of what follows each path; elsewhere the tokens are even."""

    def __init__(self, probabilities: dict[Path, list[float]]) -> None:
        self.probabilities, self.size = probabilities, len(next(iter(probabilities.values())))

    def step(self, tokens: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        state = torch.cat((state, tokens[:, None]), 1)
        even = [1 / self.size] * self.size
        rows = [self.probabilities.get(tuple(path[1:]), even) for path in state.tolist()]
        return torch.tensor(rows).log(), state

    def reorder(self, state: Tensor, index: Tensor) -> Tensor:
        return state[index]


STARTS = torch.tensor([3, 77, 500, 3, 901])
PREFIX = torch.tensor([[4, 2, PAD], [PAD, PAD, 3], [5, EOS, PAD], [PAD, 2, PAD], [6, 6, 6]])
