# SPDX-License-Identifier: MIT
"""Recurrent decoders: with one context for the whole sentence, and with attention."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ...nn.linear import Linear
from .attention import Attention, Look, attend
from .interfaces import Decoder, Encoded, Prediction
from .recurrence import State, hidden, recurrence, take_rows

ATTENDS = ("after", "before")


class ContextState(NamedTuple):
    """The state of a decoder with a fixed context."""

    hidden: State  # (L, N, H)
    context: Tensor  # (B, H)


class AttentionState(NamedTuple):
    """The state of a decoder with attention."""

    hidden: State  # (L, N, H)
    keys: Tensor  # (B, S, H)
    memory: Tensor  # (B, S, M)
    mask: Tensor | None  # (B, S)
    # Of the steps run last, (N, T, S); None before any and after rows have moved.
    weights: Tensor | None = None


class RNNDecoder(Decoder):
    """Recurrent layers over target embeddings, each beside the encoder's final state.

    The context is the top layer's h at the end of the source (Cho et al. 2014) and stays the
    same to the end of the target. Encoder and decoder need equal L and H.

    Args:
        vocab_size: number of target tokens, V.
        embedding_size: size of a token's vector.
        hidden_size: size of the state of each layer, H.
        num_layers: layers, L. Default 1.
        dropout: between layers. Default 0.
        cell: one of CELLS, the encoder's. Default "gru".
        outer_dropout: on embeddings and before the output layer. Default 0.
        tied: whether the output layer's weight is the embedding's; needs equal sizes. Default
            False.
        backend: of the recurrent layers. Default "auto".
    """

    # See `Steps`.
    capturable = True

    def __init__(
        self,
        vocab_size: int,
        embedding_size: int,
        hidden_size: int,
        num_layers: int = 1,
        dropout: float = 0.0,
        *,
        cell: str = "gru",
        outer_dropout: float = 0.0,
        tied: bool = False,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, embedding_size)
        size = embedding_size + hidden_size
        self.rnn = recurrence(cell, size, hidden_size, num_layers, dropout=dropout, backend=backend)
        self.outer_dropout = nn.Dropout(outer_dropout)
        self.output = output_layer(self.embedding, hidden_size, tied=tied)

    def init_state(self, encoded: Encoded, lengths: Tensor | None = None) -> ContextState:
        """Returns the state to decode from; lengths play no part, as the encoder honours them."""
        return ContextState(encoded.state, hidden(encoded.state)[-1])

    def forward(self, tokens: Tensor, state: ContextState) -> Prediction:
        """Returns logits (B, T, V) and the state after tokens (B, T), in one recurrent launch."""
        x = self.outer_dropout(self.embedding(tokens.t()))  # (T, B, E)
        context = _per_row(state.context, x.size(1)).expand(x.size(0), -1, -1)
        y, last = self.rnn(torch.cat((x, context), -1), state.hidden)
        logits = self.output(self.outer_dropout(y)).transpose(0, 1)
        return Prediction(logits, state._replace(hidden=last))

    def step(self, tokens: Tensor, state: ContextState) -> Prediction:
        """Returns logits (N, V) and the state after one more token of each row, (N,)."""
        logits, state = self(tokens.unsqueeze(1), state)
        return Prediction(logits.squeeze(1), state)

    def reorder(self, state: ContextState, index: Tensor) -> ContextState:
        """Returns the state with rows taken by index, (N,), each within its sentence."""
        return state._replace(hidden=take_rows(state.hidden, index))


class AttentionDecoder(Decoder):
    """Recurrent layers over target embeddings that look at the encoder's outputs.

    attend="after" (Luong et al. 2015): the query is the top layer's output, and the prediction
    comes from tanh(W [output; context]). The recurrence does not wait for attention: a whole
    target is one launch. attend="before" (Bahdanau et al. 2015, and *Dive into Deep Learning*):
    the query is the top layer's state before the step, the context enters the step beside the
    embedding, and a target is run step by step.

    Args:
        vocab_size: number of target tokens, V.
        embedding_size: size of a token's vector.
        hidden_size: size of the state of each layer, H.
        num_layers: layers, L. Default 1.
        dropout: between layers. Default 0.
        cell: one of CELLS, the encoder's. Default "gru".
        attention: one of ATTENTIONS. Default "additive".
        attend: "after" or "before" the step. Default "after".
        memory_size: size of an output of the encoder, M. Default None: hidden_size; a
            bidirectional encoder has `output_size` = 2 * hidden_size.
        outer_dropout: on embeddings and before the output layer. Default 0.
        tied: whether the output layer's weight is the embedding's; needs equal sizes. Default
            False.
        backend: of the recurrent layers. Default "auto".
    """

    # See `Steps`.
    capturable = True

    def __init__(
        self,
        vocab_size: int,
        embedding_size: int,
        hidden_size: int,
        num_layers: int = 1,
        dropout: float = 0.0,
        *,
        cell: str = "gru",
        attention: str = "additive",
        attend: str = "after",
        memory_size: int | None = None,
        outer_dropout: float = 0.0,
        tied: bool = False,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        if attend not in ATTENDS:
            raise ValueError(f"attend: expected one of {ATTENDS}, got {attend!r}")
        memory_size = hidden_size if memory_size is None else memory_size
        after = attend == "after"
        self.embedding = nn.Embedding(vocab_size, embedding_size)
        size = embedding_size + (0 if after else memory_size)
        self.rnn = recurrence(cell, size, hidden_size, num_layers, dropout=dropout, backend=backend)
        self.look = Attention(attention, hidden_size, memory_size)
        self.combine = Linear(hidden_size + memory_size, hidden_size) if after else None
        self.outer_dropout = nn.Dropout(outer_dropout)
        self.output = output_layer(self.embedding, hidden_size, tied=tied)

    def init_state(self, encoded: Encoded, lengths: Tensor | None = None) -> AttentionState:
        """Returns the state to decode from; only places before each length are looked at."""
        memory = encoded.outputs.transpose(0, 1).contiguous()  # (B, S, M)
        mask = None
        if lengths is not None:
            mask = torch.arange(memory.size(1), device=memory.device) < lengths.unsqueeze(1)
        return AttentionState(encoded.state, self.look.keys(memory), memory, mask)

    def forward(self, tokens: Tensor, state: AttentionState) -> Prediction:
        """Returns logits (B, T, V) and the state after tokens (B, T)."""
        x = self.outer_dropout(self.embedding(tokens.t()))  # (T, B, E)
        if self.combine is not None:
            y, last = self.rnn(x, state.hidden)
            look = self._looked(y.transpose(0, 1), state)
            y = self.combine(torch.cat((y.transpose(0, 1), look.context), -1)).tanh()
            weights = look.weights
        else:
            ys, seen, last = [], [], state.hidden
            for embedded in x:
                look, y, last = self._step_before(embedded, last, state)
                ys.append(y)
                seen.append(look.weights)
            y, weights = torch.stack(ys, 1), torch.cat(seen, 1)
        logits = self.output(self.outer_dropout(y))
        return Prediction(logits, state._replace(hidden=last, weights=weights))

    def step(self, tokens: Tensor, state: AttentionState) -> Prediction:
        """Returns logits (N, V) and the state after one more token of each row, (N,)."""
        x = self.outer_dropout(self.embedding(tokens))  # (N, E)
        if self.combine is not None:
            y, last = self.rnn(x.unsqueeze(0), state.hidden)
            y = y.squeeze(0)
            look = self._looked(_by_sentence(y, state), state)
            y = self.combine(torch.cat((y, look.context.flatten(0, 1)), -1)).tanh()
        else:
            look, y, last = self._step_before(x, state.hidden, state)
        logits = self.output(self.outer_dropout(y))
        weights = look.weights.flatten(0, 1).unsqueeze(1)
        return Prediction(logits, state._replace(hidden=last, weights=weights))

    def reorder(self, state: AttentionState, index: Tensor) -> AttentionState:
        """Returns the state with rows taken by index, (N,), each within its sentence."""
        return state._replace(hidden=take_rows(state.hidden, index), weights=None)

    def attention(self, state: AttentionState) -> Tensor:
        """Returns where each row looked at the last step, (N, S): weights of sum 1.

        Raises:
            ValueError: no step has been run since the start or the last `reorder`.
        """
        if state.weights is None:
            raise ValueError("state: expected one right after a step, got one without attention")
        return state.weights[:, -1]

    def _looked(self, queries: Tensor, state: AttentionState) -> Look:
        """Of queries (B, Q, H): the steps of a target, or the rows of a sentence."""
        return attend(self.look(queries, state.keys), state.memory, state.mask)

    def _step_before(
        self, x: Tensor, last: State, state: AttentionState
    ) -> tuple[Look, Tensor, State]:
        """Look, output (N, H) and state after embeddings (N, E)."""
        look = self._looked(_by_sentence(hidden(last)[-1], state), state)
        x = torch.cat((look.context.flatten(0, 1), x), -1)
        y, last = self.rnn(x.unsqueeze(0), last)
        return look, y.squeeze(0), last


def output_layer(embedding: nn.Embedding, hidden_size: int, *, tied: bool) -> Linear:
    """Returns the layer from a state to logits; tied, its weight becomes the embedding's.

    The weight starts as a linear layer's: an embedding's, of variance 1, would make logits far
    too large.

    Raises:
        ValueError: the embedding's vectors are not of the state's size and the layer is tied.
    """
    output = Linear(hidden_size, embedding.num_embeddings)
    if tied:
        if embedding.embedding_dim != hidden_size:
            raise ValueError(
                f"tied: expected embedding_size equal to hidden_size {hidden_size}, got "
                f"{embedding.embedding_dim}"
            )
        embedding.weight = output.weight
    return output


def _per_row(context: Tensor, rows: int) -> Tensor:
    """(N, H) of (B, H): that of its sentence for each row."""
    sentences = context.size(0)
    if rows == sentences:
        return context
    return context.unsqueeze(1).expand(-1, rows // sentences, -1).flatten(0, 1)


def _by_sentence(rows: Tensor, state: AttentionState) -> Tensor:
    """(B, K, H) of (N, H)."""
    return rows.unflatten(0, (state.memory.size(0), -1))
