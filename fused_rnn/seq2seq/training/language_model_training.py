# SPDX-License-Identifier: MIT
"""Training of language models: truncated backpropagation through time."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from ...text.batches import Batch, random_batches, sequential_batches
from ...text.streaming import StreamedText
from ...text.vocab import Vocab
from ..models.language_model import LanguageModel, evaluate
from ..models.recurrence import detach, map_state
from . import parallel
from .options import Options, check_at_least, check_choice
from .training import Evaluation, Loss, Training

SAMPLINGS = {"sequential": sequential_batches, "random": random_batches}


@dataclass(frozen=True, kw_only=True)
class TrainingOptions(Options):
    """The options of a language model's training.

    Args:
        num_steps: tokens of a row, T, and how far gradients reach back. Default 64.
        sampling: "sequential" carries the state from one minibatch to the next, "random" does
            not. Default "sequential".
        held_out: part of the text, at its end, that is not trained on. Default 0.1.

    The rest are those of `Options`.
    """

    num_steps: int = 64
    sampling: str = "sequential"
    held_out: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("sampling", self.sampling, tuple(SAMPLINGS))
        check_at_least("num_steps", self.num_steps, 1)
        if not 0 < self.held_out < 1:
            raise ValueError(f"held_out: expected between 0 and 1, got {self.held_out}")

    @property
    def tokens_per_step(self) -> int:
        return self.batch_size * self.num_steps * self.accumulate

    def split(self, length: int) -> int:
        """Returns how much of a text of some length, from its start, is trained on."""
        return length - max(1, round(length * self.held_out))


class Trainer(Training):
    """A language model being trained.

    Args:
        model: trained in place.
        tokens: the text to train on, (n,), or a stream of it.
        options: how.

    Raises:
        ValueError: the text is too short for one minibatch, a minibatch has no equal share for
            each process, or a stream is to be sampled at random.
    """

    unit = "tok"

    def __init__(
        self, model: LanguageModel, tokens: Tensor | StreamedText, options: TrainingOptions
    ) -> None:
        self.model, self.tokens, self.options = model, tokens, options
        if isinstance(tokens, StreamedText):
            if options.sampling != "sequential":
                raise ValueError(
                    f"sampling: expected 'sequential' for a stream, got {options.sampling!r}"
                )
            self.knows_unknown = tokens.holds(Vocab.unknown)
        else:
            self.knows_unknown = bool((tokens == Vocab.unknown).any())
        super().__init__(model, options, self._name(tokens))
        if options.batch_size % self._world.size:
            raise ValueError(
                f"batch_size: expected a multiple of the {self._world.size} processes, got "
                f"{options.batch_size}"
            )
        # The first minibatch is looked at only to refuse a text that is too short.
        next(self._pass())

    @property
    def units_per_step(self) -> int:
        return self.options.tokens_per_step

    def _minibatches(self, rng: random.Random) -> Iterator[Batch]:
        options = self.options
        if isinstance(self.tokens, StreamedText):
            return self.tokens.batches(options.batch_size, options.num_steps)
        draw = SAMPLINGS[options.sampling]
        return draw(self.tokens, options.batch_size, options.num_steps, rng=rng)

    def _loss(self, batch: Batch) -> Loss:
        x, y = (parallel.share(part).t().to(self._device) for part in batch)
        logits, state = self._called(x, self._state)
        if self.options.sampling == "sequential":
            self._state = detach(state)
        total = F.cross_entropy(
            logits.flatten(0, 1),
            y.flatten(),
            reduction="sum",
            label_smoothing=self.options.label_smoothing,
        )
        return Loss(total, batch.y.numel())

    def evaluate(self, held_out: Tensor) -> Evaluation:
        """Returns how well a held-out text, (n,), is predicted, read in batch_size parts."""
        return evaluate(
            self.model, held_out, batch_size=self.options.batch_size, skip=self.never_seen
        )

    @property
    def never_seen(self) -> tuple[int, ...]:
        """`<unk>`, where the text trained on has none: what it would cost has no meaning."""
        return () if self.knows_unknown else (Vocab.unknown,)

    def _name(self, held_out: Tensor | StreamedText) -> str:
        if isinstance(held_out, StreamedText):
            return held_out.digest
        return hashlib.sha256(str(held_out.tolist()).encode()).hexdigest()

    def tensors(self) -> dict[str, Tensor]:
        found = super().tensors()
        if self._state is not None:
            whole = map_state(lambda part: parallel.collect(part, 1), self._state)
            parts = (whole,) if isinstance(whole, Tensor) else whole
            found.update({f"state.{i}": part for i, part in enumerate(parts)})
        return found

    def restore(self, position: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        super().restore(position, tensors)
        names = [name for name in ("state.0", "state.1") if name in tensors]
        parts = [parallel.share(tensors[name], 1).to(self._device) for name in names]
        self._state = (parts[0], parts[1]) if len(parts) == 2 else next(iter(parts), None)
