# SPDX-License-Identifier: MIT
"""The interfaces of encoders, decoders and language models to each other and to the search.

The protocol of the search, `Steps`, is that of all models that predict the next token: anything
with these two methods can be searched, sampled and scored. Rows of a state belong to sentences:
sentence b of B owns rows b*K to b*K + K - 1 of N = B*K.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple, Protocol

from torch import Tensor, nn

from .recurrence import State


class Prediction(NamedTuple):
    """Unnormalised log-probabilities of the next token, and the state to go on from."""

    logits: Tensor
    state: Any


class Encoded(NamedTuple):
    """The results of an encoder for source sentences."""

    outputs: Tensor  # (S, B, M), zero past each row's length
    state: State  # (L, B, H), for the LSTM a pair


class Steps(Protocol):
    """A model that goes on token by token.

    One whose attribute `capturable` is true promises that these methods never make the host wait
    for the device, and keep the shapes of states: a search makes a CUDA graph of them.
    """

    def step(self, tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        """The logits (N, V) of the next token after tokens (N,), and the state after them."""

    def reorder(self, state: Any, index: Tensor) -> Any:
        """The state whose row n is row index[n] of this one, which is of the same sentence."""


class Encoder(nn.Module, ABC):
    """Interface: source sentences to what a decoder starts from."""

    @abstractmethod
    def forward(self, tokens: Tensor, lengths: Tensor | None = None) -> Encoded:
        """Returns the encoded sentences.

        Args:
            tokens: token numbers, (B, S).
            lengths: tokens of each row, (B,). Default None: S of all.
        """


class Decoder(nn.Module, ABC):
    """Interface: the predictor of target tokens. Its steps are those of `Steps`."""

    @abstractmethod
    def init_state(self, encoded: Encoded, lengths: Tensor | None = None) -> Any:
        """Returns the state to decode from.

        Args:
            encoded: what the encoder returned.
            lengths: tokens of each source sentence, (B,). Default None: S of all.
        """

    @abstractmethod
    def forward(self, tokens: Tensor, state: Any) -> Prediction:
        """Returns what each of some tokens makes the decoder expect next.

        Args:
            tokens: token numbers, (B, T); in training `<bos>` and the target but its last.
            state: of init_state or of an earlier prediction, B rows.

        Returns:
            logits (B, T, V) and the state after the last token.
        """

    @abstractmethod
    def step(self, tokens: Tensor, state: Any) -> Prediction:
        """Returns logits (N, V) and the state after one more token of each row, (N,)."""

    @abstractmethod
    def reorder(self, state: Any, index: Tensor) -> Any:
        """Returns the state with rows taken by index, (N,), each within its sentence."""


class EncoderDecoder(nn.Module):
    """An encoder and a decoder; a translator, and the model of its search.

    Args:
        encoder: of the source sentences.
        decoder: of the target sentences.
    """

    def __init__(self, encoder: Encoder, decoder: Decoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder

    def forward(self, source: Tensor, target: Tensor, lengths: Tensor | None = None) -> Prediction:
        """Returns what the target's tokens, one after the other, make the model expect next.

        Args:
            source: token numbers, (B, S).
            target: token numbers, (B, T), `<bos>` first (teacher forcing).
            lengths: tokens of each source sentence, (B,). Default None: S of all.

        Returns:
            logits (B, T, V) and the decoder's state.
        """
        return self.decoder(target, self.encode(source, lengths))

    def encode(self, source: Tensor, lengths: Tensor | None = None) -> Any:
        """Returns the state to decode source sentences from, (B, S), of these lengths, (B,)."""
        return self.decoder.init_state(self.encoder(source, lengths), lengths)

    def step(self, tokens: Tensor, state: Any) -> Prediction:
        """Returns logits (N, V) and the state after one more target token of each row, (N,)."""
        return self.decoder.step(tokens, state)

    def reorder(self, state: Any, index: Tensor) -> Any:
        """Returns the state with rows taken by index, (N,), each within its sentence."""
        return self.decoder.reorder(state, index)

    @property
    def capturable(self) -> bool:
        """Whether the decoder's steps can be a CUDA graph; see `Steps`."""
        return bool(getattr(self.decoder, "capturable", False))

    def attention(self, state: Any) -> Tensor:
        """Returns where the last step looked, (N, S); see `AttentionDecoder.attention`."""
        return attention_of(self.decoder, state)


def attention_of(model: object, state: Any) -> Tensor:
    """Returns the attention weights of a model's last step, (N, S).

    Raises:
        ValueError: the model has no attention.
    """
    look = getattr(model, "attention", None)
    if look is None:
        raise ValueError(f"model: expected one with attention, got {type(model).__name__}")
    return look(state)
