# SPDX-License-Identifier: MIT
"""Attention: which places of a source sentence a decoder's state looks at."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

ATTENTIONS = ("additive", "dot", "general")


class Look(NamedTuple):
    """The context that attention saw, and the weights of the places it looked at."""

    context: Tensor  # (B, Q, M)
    weights: Tensor  # (B, Q, S)


def attend(scores: Tensor, memory: Tensor, mask: Tensor | None = None) -> Look:
    """Returns the mean of memory weighted by the softmax of scores over the places in the mask.

    Args:
        scores: (B, Q, S).
        memory: (B, S, M).
        mask: places that are there, bool, (B, S). Default None: all. A row without any gets
            weights and context of zero.
    """
    if mask is None:
        weights = scores.softmax(-1)
    else:
        absent = ~mask.unsqueeze(1)
        # The lowest number, not -inf: a row without any place must give no NaN.
        lowest = torch.finfo(scores.dtype).min
        weights = scores.masked_fill(absent, lowest).softmax(-1).masked_fill(absent, 0)
    return Look(weights.to(memory.dtype) @ memory, weights)


class Attention(nn.Module):
    """Scores of memory places for queries, in one of three ways.

    "additive": w . tanh(W_q q + W_k k) (Bahdanau et al. 2015); "dot": q . k / sqrt(H), which
    needs memory of the query's size; "general": q . (W_k k) / sqrt(H) (Luong et al. 2015, scaled).

    Args:
        kind: one of ATTENTIONS.
        query_size: size of a query, H.
        memory_size: size of a place, M.

    Raises:
        ValueError: there is no such way, or "dot" is asked for with M other than H.
    """

    def __init__(self, kind: str, query_size: int, memory_size: int) -> None:
        super().__init__()
        if kind not in ATTENTIONS:
            raise ValueError(f"attention: expected one of {ATTENTIONS}, got {kind!r}")
        if kind == "dot" and query_size != memory_size:
            raise ValueError(
                f"attention: expected memory_size {query_size} for 'dot', got {memory_size}; "
                "'general' takes any"
            )
        self.kind = kind
        self.key = None if kind == "dot" else nn.Linear(memory_size, query_size, bias=False)
        additive = kind == "additive"
        self.query = nn.Linear(query_size, query_size, bias=False) if additive else None
        self.energy = nn.Linear(query_size, 1, bias=False) if additive else None

    def keys(self, memory: Tensor) -> Tensor:
        """Returns what queries are compared with, (B, S, H), computed once a sentence."""
        return memory if self.key is None else self.key(memory)

    def forward(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Returns scores, (B, Q, S), of queries (B, Q, H) and keys (B, S, H)."""
        if self.query is None or self.energy is None:
            return (queries @ keys.transpose(1, 2)) / math.sqrt(queries.size(-1))
        features = self.query(queries).unsqueeze(2) + keys.unsqueeze(1)  # (B, Q, S, H)
        return self.energy(features.tanh()).squeeze(-1)
