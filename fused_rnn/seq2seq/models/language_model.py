# SPDX-License-Identifier: MIT
"""Recurrent language models: what comes next in a text."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...nn.linear import Linear
from ..search.sampling import check_draws, sample
from ..search.stepping import evaluating
from ..training.options import check_at_least
from ..training.training import Evaluation
from .decoder import output_layer
from .interfaces import Prediction
from .recurrence import CELLS, State, recurrence, take_rows

# What `cross_entropy` passes over.
_SKIPPED = -100


@dataclass(frozen=True)
class LanguageModelConfig:
    """The configuration of a language model.

    Args:
        vocab_size: number of tokens, V.
        cell: one of CELLS. Default "gru".
        hidden_size: size of the state of each layer, H. Default 256.
        num_layers: layers, L. Default 1.
        embedding_size: size of the learned vector of a token; 0 = one-hot vectors. Default 64.
        dropout: on embeddings, between layers and on the last layer's output. Default 0.1.
        tied: whether the output layer's weight is the embedding's (Press and Wolf 2017), for
            which both sizes must be equal. Default False.
    """

    vocab_size: int
    cell: str = "gru"
    hidden_size: int = 256
    num_layers: int = 1
    embedding_size: int = 64
    dropout: float = 0.1
    tied: bool = False

    def __post_init__(self) -> None:
        if self.cell not in CELLS:
            raise ValueError(f"cell: expected one of {CELLS}, got {self.cell!r}")
        for name in ("vocab_size", "hidden_size", "num_layers"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}")
        if self.embedding_size < 0:
            raise ValueError(f"embedding_size: expected 0 or more, got {self.embedding_size}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout: expected at least 0, below 1, got {self.dropout}")
        if self.tied and self.embedding_size != self.hidden_size:
            raise ValueError(
                f"tied: expected embedding_size equal to hidden_size {self.hidden_size}, got "
                f"{self.embedding_size}"
            )


class LanguageModel(nn.Module):
    """Embedding or one-hot vectors, recurrent layers, a linear layer over the vocabulary.

    Args:
        config: its sizes.
        backend: of the recurrent layers. Default "auto".
    """

    # See `Steps`.
    capturable = True

    def __init__(self, config: LanguageModelConfig, *, backend: str = "auto") -> None:
        super().__init__()
        self.config = config
        size, hidden = config.embedding_size, config.hidden_size
        self.embedding = nn.Embedding(config.vocab_size, size) if size else None
        self.rnn = recurrence(
            config.cell,
            size or config.vocab_size,
            hidden,
            config.num_layers,
            dropout=config.dropout,
            backend=backend,
        )
        self.dropout = nn.Dropout(config.dropout)
        self.output: nn.Linear
        if self.embedding is not None and config.tied:
            self.output = output_layer(self.embedding, hidden, tied=True)
        else:
            self.output = Linear(hidden, config.vocab_size)

    def forward(self, tokens: Tensor, state: State | None = None) -> Prediction:
        """Returns what each token makes the model expect next.

        Args:
            tokens: token numbers, (T, B).
            state: the state to start from, as a prediction holds it. Default None: zeros.

        Returns:
            logits (T, B, V) and the state after the last step.
        """
        if self.embedding is None:
            x = F.one_hot(tokens, self.config.vocab_size).to(self.output.weight.dtype)
        else:
            x = self.dropout(self.embedding(tokens))
        y, state = self.rnn(x, state)
        return Prediction(self.output(self.dropout(y)), state)

    def step(self, tokens: Tensor, state: State | None = None) -> Prediction:
        """Returns what one more token of each row makes the model expect next.

        Args:
            tokens: token numbers, (B,).
            state: the state to start from. Default None: zeros.

        Returns:
            logits (B, V) and the state after the step.
        """
        logits, state = self(tokens.unsqueeze(0), state)
        return Prediction(logits.squeeze(0), state)

    def reorder(self, state: State, index: Tensor) -> State:
        """Returns the state whose row n is row index[n], (N,), of the one given."""
        return take_rows(state, index)

    def initial_state(self, batch_size: int) -> State:
        """Returns the state of zeros for so many rows, as a search needs it."""
        h = self.output.weight.new_zeros(
            self.config.num_layers, batch_size, self.config.hidden_size
        )
        return (h, torch.zeros_like(h)) if self.config.cell == "lstm" else h


def evaluate(
    model: LanguageModel,
    tokens: Tensor,
    *,
    batch_size: int = 1,
    num_steps: int = 256,
    skip: Collection[int] = (),
) -> Evaluation:
    """Returns how well a model predicts a text's tokens after the first.

    Args:
        tokens: the text, (n,).
        batch_size: parts the text is cut into to be read side by side, each from a zero state,
            faster but without what came before. Default 1: the text is read as a whole.
        num_steps: tokens of each part read at a time; no influence on the result.
        skip: token numbers that are read but not counted among those to be predicted. Default
            none.

    Raises:
        ValueError: the text has fewer than two tokens, or none after the first that counts; or a
            size is below 1.
    """
    check_at_least("batch_size", batch_size, 1)
    check_at_least("num_steps", num_steps, 1)
    count = len(tokens) - 1
    if count < 1:
        raise ValueError(f"tokens: expected at least 2, got {len(tokens)}")
    length = -(-count // batch_size)
    gap = length * batch_size - count
    x = F.pad(tokens[:-1], (0, gap)).view(batch_size, length).t()  # (n, B)
    labels = tokens[1:]
    for number in skip:
        labels = labels.masked_fill(labels == number, _SKIPPED)
    counted = int((labels != _SKIPPED).sum())
    if not counted:
        raise ValueError(f"tokens: expected some to predict besides {list(skip)}, got none")
    y = F.pad(labels, (0, gap), value=_SKIPPED).view(batch_size, length).t()
    total, state = 0.0, None
    with evaluating(model):
        for first in range(0, length, num_steps):
            logits, state = model(x[first : first + num_steps], state)
            labels = y[first : first + num_steps].flatten()
            total += F.cross_entropy(logits.flatten(0, 1), labels, reduction="sum").item()
    return Evaluation(total, counted)


def generate(
    model: LanguageModel,
    prefix: Tensor,
    length: int,
    *,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    generator: torch.Generator | None = None,
    ban: Collection[int] = (),
    watch: Callable[[int], bool] | None = None,
) -> list[int]:
    """Returns tokens that go on from a prefix.

    Args:
        prefix: token numbers, (n,), at least one.
        length: number of tokens to return.
        temperature, top_k, top_p: as in `sample`.
        generator: draws the tokens. Default: PyTorch's global generator.
        ban: token numbers never returned. Default none.
        watch: called with each token at once; where it returns true, that is the last. Default
            None.

    Raises:
        ValueError: the prefix is empty, an option does not fit, or a ban leaves no token.
    """
    if prefix.dim() != 1 or len(prefix) == 0:
        got = "none" if prefix.shape == (0,) else f"shape {tuple(prefix.shape)}"
        raise ValueError(f"prefix: expected one token or more in one dimension, got {got}")
    if length < 0:
        raise ValueError(f"length: expected 0 or more, got {length}")
    size = model.config.vocab_size
    low, high = (int(end) for end in prefix.aminmax())
    if not 0 <= low <= high < size:
        raise ValueError(f"prefix: expected tokens from 0 to {size - 1}, got {low} to {high}")
    if not set(range(size)) - set(ban):
        raise ValueError(f"ban: expected some of the {size:,} tokens to be left, got all of them")
    check_draws(temperature, top_k, top_p)
    if length == 0:
        return []
    state = model.initial_state(1)
    with evaluating(model):
        if len(prefix) > 1:
            state = model(prefix[:-1].unsqueeze(1), state).state
    found = sample(
        model,
        state,
        bos=prefix[-1:],
        eos=None,
        pad=0,
        # As a tensor: room is made for the steps that come to be, not for all of them.
        max_length=torch.tensor([length], device="cpu"),
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        generator=generator,
        ban=ban,
        watch=None if watch is None else lambda drawn: watch(int(drawn)),
    )
    return found.tokens[0, 0, : int(found.lengths)].tolist()
