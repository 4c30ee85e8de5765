# SPDX-License-Identifier: MIT
"""Several translators searched as one."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from .interfaces import EncoderDecoder, Prediction


class Ensemble(EncoderDecoder):
    """Translators of the same vocabularies, whose probabilities are averaged at each step.

    Args:
        models: at least one.

    Raises:
        ValueError: there is none.
    """

    def __init__(self, models: Sequence[EncoderDecoder]) -> None:
        if not models:
            raise ValueError("models: expected at least one, got none")
        # What an EncoderDecoder is made of, each of the models has.
        nn.Module.__init__(self)
        self.models = nn.ModuleList(models)

    def _each(self, states: Sequence[Any]) -> Iterator[tuple[EncoderDecoder, Any]]:
        """The models, each with its state."""
        return zip(cast(Iterable[EncoderDecoder], self.models), states, strict=True)

    def forward(self, source: Tensor, target: Tensor, lengths: Tensor | None = None) -> Prediction:
        """Returns log-probabilities (B, T, V) and the models' states; see `EncoderDecoder`."""
        return _averaged([model(source, target, lengths) for model in self.models])

    def encode(self, source: Tensor, lengths: Tensor | None = None) -> Any:
        """Returns the states to decode source sentences from, (B, S), of these lengths, (B,)."""
        models = cast(Iterable[EncoderDecoder], self.models)
        return tuple(model.encode(source, lengths) for model in models)

    def step(self, tokens: Tensor, state: Any) -> Prediction:
        """Returns log-probabilities (N, V) and the states after one more token of each row."""
        return _averaged([model.step(tokens, own) for model, own in self._each(state)])

    def reorder(self, state: Any, index: Tensor) -> Any:
        """Returns the states with rows taken by index, (N,), each within its sentence."""
        return tuple(model.reorder(own, index) for model, own in self._each(state))

    @property
    def capturable(self) -> bool:
        """Whether all models' steps can be a CUDA graph; see `Steps`."""
        return all(model.capturable for model in self.models)

    def attention(self, state: Any) -> Tensor:
        """Returns where the models looked at the last step, on average, (N, S)."""
        return torch.stack([model.attention(own) for model, own in self._each(state)]).mean(0)


def _averaged(found: list[Prediction]) -> Prediction:
    logs = torch.stack([logits.log_softmax(-1) for logits, _ in found])
    return Prediction(logs.logsumexp(0) - math.log(len(found)), tuple(state for _, state in found))
