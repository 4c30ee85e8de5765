# SPDX-License-Identifier: MIT
"""The recurrent encoder, and the bridge from its two directions to a decoder."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from .interfaces import Encoded, Encoder
from .recurrence import State, recurrence


class RNNEncoder(Encoder):
    """Embedding and recurrent layers over source sentences, each read to its own length.

    A bidirectional encoder's final states pass a bridge to the decoder's size: for each layer
    tanh(W [forward; backward] + b) (Bahdanau et al. 2015 have the backward half only), and for
    the cell state of an LSTM the same without tanh.

    Args:
        vocab_size: number of source tokens, V.
        embedding_size: size of a token's vector.
        hidden_size: size of the state of each layer and direction, H.
        num_layers: layers, L. Default 1.
        dropout: between layers. Default 0.
        cell: one of CELLS. Default "gru".
        bidirectional: whether each layer reads both ways. Default False.
        outer_dropout: on embeddings. Default 0.
        backend: of the recurrent layers. Default "auto".
    """

    def __init__(
        self,
        vocab_size: int,
        embedding_size: int,
        hidden_size: int,
        num_layers: int = 1,
        dropout: float = 0.0,
        *,
        cell: str = "gru",
        bidirectional: bool = False,
        outer_dropout: float = 0.0,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, embedding_size)
        self.rnn = recurrence(
            cell,
            embedding_size,
            hidden_size,
            num_layers,
            dropout=dropout,
            bidirectional=bidirectional,
            backend=backend,
        )
        self.outer_dropout = nn.Dropout(outer_dropout)
        self.bridge = (
            _Bridge(hidden_size, num_layers, with_cell=cell == "lstm") if bidirectional else None
        )

    @property
    def output_size(self) -> int:
        """M, the size of one output."""
        return self.rnn.hidden_size * (2 if self.rnn.bidirectional else 1)

    def forward(self, tokens: Tensor, lengths: Tensor | None = None) -> Encoded:
        """Returns the top layer's outputs and every layer's final state.

        Args:
            tokens: token numbers, (B, S).
            lengths: tokens of each row, (B,), zero allowed. Default None: S of all. What stands
                past them has no influence.

        Returns:
            outputs (S, B, M), zero past each row's length; state (L, B, H), for the LSTM a pair.

        Raises:
            ValueError: tokens are not (B, S), or S is 0.
        """
        if tokens.dim() != 2 or not tokens.size(1):
            raise ValueError(
                f"tokens: expected (B, S) with S at least 1, got {tuple(tokens.shape)}"
            )
        x = self.outer_dropout(self.embedding(tokens.t()))
        outputs, state = self.rnn(x, lengths=lengths)
        return Encoded(outputs, state if self.bridge is None else self.bridge(state))


class _Bridge(nn.Module):
    """Final states of both directions to those of a decoder."""

    def __init__(self, hidden_size: int, num_layers: int, *, with_cell: bool) -> None:
        super().__init__()

        def layers() -> nn.ModuleList:
            return nn.ModuleList(nn.Linear(2 * hidden_size, hidden_size) for _ in range(num_layers))

        self.h = layers()
        self.c = layers() if with_cell else None

    def forward(self, state: State) -> State:
        """(L, B, H) of (2L, B, H), for the LSTM pairs."""
        if self.c is None:
            return _joined(cast(Tensor, state), self.h).tanh()
        h, c = state
        return _joined(h, self.h).tanh(), _joined(c, self.c)


def _joined(state: Tensor, layers: nn.ModuleList) -> Tensor:
    both = state.unflatten(0, (len(layers), 2)).transpose(1, 2).flatten(2)  # (L, B, 2H)
    return torch.stack([layer(x) for layer, x in zip(layers, both, strict=True)])
