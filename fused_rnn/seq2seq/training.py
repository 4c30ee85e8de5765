# SPDX-License-Identifier: MIT
"""Training of language models: truncated backpropagation through time, exactly resumable."""

from __future__ import annotations

import hashlib
import math
import random
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils import clip_grad_norm_

from ..text.batches import Batch, random_batches, sequential_batches
from .checkpoint import CheckpointError
from .language_model import LanguageModel, evaluate
from .recurrence import State, detach

SAMPLINGS = {"sequential": sequential_batches, "random": random_batches}
OPTIMIZERS = ("adam", "sgd")
SCHEDULES = ("cosine", "constant")
_WARM_UP = 50


@dataclass(frozen=True)
class TrainingOptions:
    """How a language model is trained.

    Args:
        steps: minibatches in all. Default 2000.
        batch_size: rows of a minibatch, B. Default 32.
        num_steps: tokens of a row, T, and how far gradients reach back. Default 64.
        sampling: "sequential" carries the state from one minibatch to the next, "random" does
            not. Default "sequential".
        optimizer: "adam" or "sgd". Default "adam".
        learning_rate: at its highest. Default 0.004.
        schedule: "cosine" rises over 50 steps, then falls to a fiftieth; "constant" stays.
            Default "cosine".
        clip: longest gradient, all parameters taken as one vector. Default 1.0.
        held_out: part of the text, at its end, that is not trained on. Default 0.1.
        validate_every: steps between looks at the held-out text. Default 100.
        seed: of the first weights, dropout and the order of minibatches. Default 0.
    """

    steps: int = 2000
    batch_size: int = 32
    num_steps: int = 64
    sampling: str = "sequential"
    optimizer: str = "adam"
    learning_rate: float = 0.004
    schedule: str = "cosine"
    clip: float = 1.0
    held_out: float = 0.1
    validate_every: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        names = {"sampling": SAMPLINGS, "optimizer": OPTIMIZERS, "schedule": SCHEDULES}
        for name, allowed in names.items():
            if getattr(self, name) not in allowed:
                given = getattr(self, name)
                raise ValueError(f"{name}: expected one of {tuple(allowed)}, got {given!r}")
        for name in ("steps", "batch_size", "num_steps", "validate_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}")
        for name in ("learning_rate", "clip"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}: expected more than 0, got {getattr(self, name)}")
        if not 0 < self.held_out < 1:
            raise ValueError(f"held_out: expected between 0 and 1, got {self.held_out}")

    @property
    def tokens_per_step(self) -> int:
        return self.batch_size * self.num_steps

    def split(self, length: int) -> int:
        """Returns how much of a text of some length, from its start, is trained on."""
        return length - max(1, round(length * self.held_out))

    def rate(self, step: int) -> float:
        """Returns the learning rate of a step, counted from 0."""
        if self.schedule == "constant":
            return self.learning_rate
        fall = 0.02 + 0.98 * (1 + math.cos(math.pi * step / self.steps)) / 2
        return self.learning_rate * min(1.0, (step + 1) / _WARM_UP) * fall


class Trainer:
    """A language model being trained, and all that its next step depends on.

    Dropout draws from PyTorch's global generator, whose state is part of `tensors()`.

    Args:
        model: trained in place.
        tokens: the text to train on, (n,).
        options: how.

    Raises:
        ValueError: the text is too short for one minibatch.
    """

    def __init__(self, model: LanguageModel, tokens: Tensor, options: TrainingOptions) -> None:
        self.model = model.train()
        self.options = options
        self.losses: list[float] = []
        self.validations: list[tuple[int, float]] = []
        self.tokens = tokens
        self._digest = hashlib.sha256(str(tokens.tolist()).encode()).hexdigest()
        self._epoch = 0
        self._used = 0
        self._state: State | None = None
        self._batches = self._pass()
        parameters = model.parameters()
        self._optimizer: torch.optim.Optimizer = (
            torch.optim.SGD(parameters, options.learning_rate)
            if options.optimizer == "sgd"
            else torch.optim.Adam(parameters, options.learning_rate)
        )
        # The first minibatch is looked at only to refuse a text that is too short.
        next(self._pass())

    @property
    def step(self) -> int:
        """Minibatches trained on so far."""
        return len(self.losses)

    @property
    def finished(self) -> bool:
        return self.step >= self.options.steps

    def train_step(self) -> float:
        """Trains on the next minibatch and returns its mean loss."""
        batch = self._next_batch()
        logits, state = self.model(batch.x.t(), self._state)
        if self.options.sampling == "sequential":
            self._state = detach(state)
        loss = F.cross_entropy(logits.flatten(0, 1), batch.y.t().flatten())
        self._optimizer.zero_grad()
        loss.backward()
        clip_grad_norm_(self.model.parameters(), self.options.clip)
        for group in self._optimizer.param_groups:
            group["lr"] = self.options.rate(self.step)
        self._optimizer.step()
        self.losses.append(loss.item())
        return self.losses[-1]

    def validate(self, tokens: Tensor) -> float:
        """Returns the perplexity of a held-out text, read in batch_size parts, and notes it."""
        result = evaluate(self.model, tokens, batch_size=self.options.batch_size)
        self.validations.append((self.step, result.loss_sum / result.predicted))
        return result.perplexity

    def position(self) -> dict[str, Any]:
        """Returns what JSON can hold of the training's position."""
        return {
            "text": self._digest,
            "step": self.step,
            "epoch": self._epoch,
            "minibatch": self._used,
            "validations": self.validations,
        }

    def tensors(self) -> dict[str, Tensor]:
        """Returns the tensors of the training's position, by name."""
        found = {
            "random": torch.get_rng_state(),
            "losses": torch.tensor(self.losses, dtype=torch.float64),
        }
        for index, entries in self._optimizer.state_dict()["state"].items():
            for name, value in entries.items():
                if isinstance(value, Tensor):
                    found[f"optimizer.{index}.{name}"] = value
        if self._state is not None:
            parts = (self._state,) if isinstance(self._state, Tensor) else self._state
            found.update({f"state.{i}": part for i, part in enumerate(parts)})
        return found

    def restore(self, position: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        """Puts the training where another was when it gave these.

        Raises:
            CheckpointError: the other was trained on another text.
        """
        if position["text"] != self._digest:
            raise CheckpointError("expected the text that the checkpoint was trained on")
        torch.set_rng_state(tensors["random"])
        self.losses = tensors["losses"].tolist()
        self.validations = [(step, loss) for step, loss in position["validations"]]
        parts = [tensors[f"state.{i}"] for i in range(2) if f"state.{i}" in tensors]
        self._state = (parts[0], parts[1]) if len(parts) == 2 else next(iter(parts), None)
        entries: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            kind, _, rest = key.partition(".")
            if kind == "optimizer":
                index, _, name = rest.partition(".")
                entries.setdefault(int(index), {})[name] = value
        groups = self._optimizer.state_dict()["param_groups"]
        self._optimizer.load_state_dict({"state": entries, "param_groups": groups})
        self._epoch, self._used = position["epoch"], position["minibatch"]
        self._batches = islice(self._pass(), self._used, None)

    def _next_batch(self) -> Batch:
        batch = next(self._batches, None)
        if batch is None:
            self._epoch, self._used, self._state = self._epoch + 1, 0, None
            self._batches = self._pass()
            batch = next(self._batches)
        self._used += 1
        return batch

    def _pass(self) -> Iterator[Batch]:
        """The minibatches of this epoch: the seed and its number say which, and nothing else."""
        options = self.options
        return SAMPLINGS[options.sampling](
            self.tokens,
            options.batch_size,
            options.num_steps,
            rng=random.Random(f"{options.seed} {self._epoch}"),
        )


def train(
    trainer: Trainer,
    held_out: Tensor,
    *,
    save: Callable[[], None],
    save_every: int = 200,
    stop: Callable[[], bool] = lambda: False,
) -> None:
    """Trains to the last step, with a progress bar.

    Args:
        trainer: goes on from where it is.
        held_out: text to validate on now and then and at the end, (n,).
        save: called every `save_every` steps and at the end.
        save_every: default 200.
        stop: looked at after every step; True ends the training there, and saves.

    Raises:
        ValueError: the loss is no longer a finite number; nothing is saved then.
    """
    from tqdm import tqdm

    options = trainer.options
    size = options.tokens_per_step
    shown: dict[str, str] = {}
    with tqdm(
        total=options.steps * size,
        initial=trainer.step * size,
        unit="tok",
        unit_scale=True,
        # A log file is spared ten lines a second.
        mininterval=0.2 if sys.stderr.isatty() else 10,
    ) as bar:
        while not trainer.finished and not stop():
            loss = trainer.train_step()
            if not math.isfinite(loss):
                raise ValueError(
                    f"loss: expected a finite number, got {loss} at step {trainer.step}; a lower "
                    "learning rate may help"
                )
            shown["loss"] = f"{loss:.3f}"
            if trainer.finished or trainer.step % options.validate_every == 0:
                shown["held-out perplexity"] = f"{trainer.validate(held_out):.3f}"
            bar.set_postfix(shown, refresh=False)
            bar.update(size)
            if not trainer.finished and trainer.step % save_every == 0:
                save()
    save()
