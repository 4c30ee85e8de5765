# SPDX-License-Identifier: MIT
"""Training of any model minibatch by minibatch: clipped, scheduled, shared, exactly resumable."""

from __future__ import annotations

import contextlib
import math
import random
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grad_norm_

from ..text.metrics import perplexity
from . import parallel, randomness
from .checkpoint import CheckpointError

OPTIMIZERS = ("adam", "sgd")
SCHEDULES = ("cosine", "constant")
PRECISIONS = ("float32", "bfloat16")
_WARM_UP = 50


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a model is trained.

    Args:
        steps: minibatches in all. Default 2000.
        batch_size: rows of a minibatch, of all processes together, B. Default 32.
        optimizer: "adam" or "sgd". Default "adam".
        learning_rate: at its highest. Default 0.004.
        schedule: "cosine" rises over 50 steps, then falls to a fiftieth; "constant" stays.
            Default "cosine".
        clip: longest gradient, all parameters taken as one vector. Default 1.0.
        precision: "bfloat16" runs the model under autocast, the weights staying float32.
            Default "float32".
        validate_every: steps between looks at what is held out. Default 100.
        patience: looks without a better one after which training ends with the best weights;
            0 = it goes on to the last step, and the last weights stay. Default 0.
        seed: of the first weights, dropout and the order of minibatches. Default 0.
    """

    steps: int = 2000
    batch_size: int = 32
    optimizer: str = "adam"
    learning_rate: float = 0.004
    schedule: str = "cosine"
    clip: float = 1.0
    precision: str = "float32"
    validate_every: int = 100
    patience: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        names = {"optimizer": OPTIMIZERS, "schedule": SCHEDULES, "precision": PRECISIONS}
        for name, allowed in names.items():
            check_choice(name, getattr(self, name), allowed)
        for name in ("steps", "batch_size", "validate_every"):
            check_at_least(name, getattr(self, name), 1)
        check_at_least("patience", self.patience, 0)
        for name in ("learning_rate", "clip"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}: expected more than 0, got {getattr(self, name)}")

    def rate(self, step: int) -> float:
        """Returns the learning rate of a step, counted from 0."""
        if self.schedule == "constant":
            return self.learning_rate
        fall = 0.02 + 0.98 * (1 + math.cos(math.pi * step / self.steps)) / 2
        return self.learning_rate * min(1.0, (step + 1) / _WARM_UP) * fall


class Loss(NamedTuple):
    """What a minibatch costs this process."""

    total: Tensor  # of this process's rows, to be differentiated
    divisor: float  # of all processes together, such as the number of tokens predicted


class Evaluation(NamedTuple):
    """Negative log-likelihood of a text, summed over its predicted tokens."""

    loss_sum: float
    predicted: int

    @property
    def perplexity(self) -> float:
        return perplexity(self.loss_sum, self.predicted)


class Training(ABC):
    """A model being trained, and all that its next step depends on.

    Dropout draws from PyTorch's global generators, whose states are part of `tensors()`. Where
    torch.distributed has been started, each process takes its share of every minibatch, and the
    gradients are those of the whole minibatch.

    Args:
        model: trained in place.
        options: how.
        digest: names what it is trained on.
    """

    # What a progress bar counts.
    unit = "row"

    def __init__(self, model: nn.Module, options: Options, digest: str) -> None:
        self._module = model.train()
        self._options = options
        self.losses: list[float] = []
        self.validations: list[tuple[int, float]] = []
        self._digest = digest
        self._epoch = 0
        self._used = 0
        self._batches = self._pass()
        self._best: dict[str, Tensor] = {}
        # What is carried from one minibatch of a pass to the next.
        self._state: Any = None
        parameters = model.parameters()
        self._optimizer: torch.optim.Optimizer = (
            torch.optim.SGD(parameters, options.learning_rate)
            if options.optimizer == "sgd"
            else torch.optim.Adam(parameters, options.learning_rate)
        )
        # What is called: the model, or the wrapper that averages gradients.
        self._called: nn.Module = model
        self._world = parallel.world()
        if self._world.size > 1:
            self._called = DistributedDataParallel(model)
            # Each process its own dropout.
            torch.manual_seed(options.seed * self._world.size + self._world.rank)

    @property
    def step(self) -> int:
        """Minibatches trained on so far."""
        return len(self.losses)

    @property
    def finished(self) -> bool:
        """Whether the last step has been made, or validation has not improved for too long."""
        if self.step >= self._options.steps:
            return True
        best = min(range(len(self.validations)), key=lambda i: self.validations[i][1], default=0)
        since = len(self.validations) - 1 - best
        return 0 < self._options.patience <= since

    @property
    def units_per_step(self) -> int:
        """What a step adds to the progress bar."""
        return self._options.batch_size

    @abstractmethod
    def _minibatches(self, rng: random.Random) -> Iterator[Any]:
        """One pass over the data; rng says in which order, and nothing else does."""

    @abstractmethod
    def _loss(self, batch: Any) -> Loss:
        """The loss of this process's share of a minibatch."""

    @abstractmethod
    def evaluate(self, held_out: Any) -> Evaluation:
        """Returns how well the model predicts what is held out."""

    def train_step(self) -> float:
        """Trains on the next minibatch and returns its mean loss."""
        batch = self._next_batch()
        with self._precision():
            loss = self._loss(batch)
        self._optimizer.zero_grad()
        # The wrapper takes the mean of what the processes have; the sum is wanted.
        (loss.total * (self._world.size / loss.divisor)).backward()
        clip_grad_norm_(self._module.parameters(), self._options.clip)
        for group in self._optimizer.param_groups:
            group["lr"] = self._options.rate(self.step)
        self._optimizer.step()
        self.losses.append(parallel.total(loss.total.detach() / loss.divisor).item())
        return self.losses[-1]

    def validate(self, held_out: Any) -> float:
        """Returns the perplexity of what is held out, and notes it."""
        with self._precision():
            result = self.evaluate(held_out)
        self.validations.append((self.step, result.loss_sum / result.predicted))
        if self._options.patience and self.validations[-1] == min(
            self.validations, key=lambda one: one[1]
        ):
            state = self._module.state_dict()
            self._best = {name: value.clone() for name, value in state.items()}
        return result.perplexity

    def take_best(self) -> None:
        """Puts the best weights back, if patience has kept any."""
        if self._best:
            self._module.load_state_dict(self._best)

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
        """Returns the tensors of the training's position, by name; all processes must ask."""
        found = {"losses": torch.tensor(self.losses, dtype=torch.float64)}
        found.update(randomness.states(self._device))
        for index, entries in self._optimizer.state_dict()["state"].items():
            for name, value in entries.items():
                if isinstance(value, Tensor):
                    found[f"optimizer.{index}.{name}"] = value
        found.update({f"best.{name}": value for name, value in self._best.items()})
        return found

    def restore(self, position: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        """Puts the training where another was when it gave these.

        Raises:
            CheckpointError: the other was trained on something else, or by more or fewer
                processes.
        """
        if position["text"] != self._digest:
            raise CheckpointError("expected the text that the checkpoint was trained on")
        randomness.restore(tensors, self._device)
        self.losses = tensors["losses"].tolist()
        self.validations = [(step, loss) for step, loss in position["validations"]]
        self._best = under("best.", tensors)
        entries: dict[int, dict[str, Tensor]] = {}
        for key, value in under("optimizer.", tensors).items():
            index, _, name = key.partition(".")
            entries.setdefault(int(index), {})[name] = value
        groups = self._optimizer.state_dict()["param_groups"]
        self._optimizer.load_state_dict({"state": entries, "param_groups": groups})
        self._epoch, self._used = position["epoch"], position["minibatch"]
        self._batches = islice(self._pass(), self._used, None)

    def _next_batch(self) -> Any:
        batch = next(self._batches, None)
        if batch is None:
            self._epoch, self._used, self._state = self._epoch + 1, 0, None
            self._batches = self._pass()
            batch = next(self._batches)
        self._used += 1
        return batch

    def _pass(self) -> Iterator[Any]:
        """The minibatches of this epoch: the seed and its number say which."""
        return self._minibatches(random.Random(f"{self._options.seed} {self._epoch}"))

    @property
    def _device(self) -> torch.device:
        return next(self._module.parameters()).device

    def _precision(self) -> contextlib.AbstractContextManager[None]:
        if self._options.precision == "float32":
            return contextlib.nullcontext()
        device = self._device.type
        context: contextlib.AbstractContextManager[None] = torch.autocast(device, torch.bfloat16)
        return context


def train(
    trainer: Training,
    held_out: Any,
    *,
    save: Callable[[], None],
    save_every: int = 200,
    stop: Callable[[], bool] = lambda: False,
) -> None:
    """Trains to the last step, with a progress bar.

    Args:
        trainer: goes on from where it is.
        held_out: what to validate on now and then and at the end; see `Training.evaluate`.
        save: called every `save_every` steps and at the end, in all processes.
        save_every: default 200.
        stop: looked at after every step; True, in any process, ends the training there, and saves.

    Raises:
        ValueError: the loss is no longer a finite number; nothing is saved then.
    """
    from tqdm import tqdm

    options, size = trainer._options, trainer.units_per_step
    shown: dict[str, str] = {}
    with tqdm(
        total=options.steps * size,
        initial=trainer.step * size,
        unit=trainer.unit,
        unit_scale=True,
        # A log file is spared ten lines a second.
        mininterval=0.2 if sys.stderr.isatty() else 10,
        disable=not parallel.world().main,
    ) as bar:
        while not trainer.finished and not parallel.any_says(stop()):
            loss = trainer.train_step()
            if not math.isfinite(loss):
                raise ValueError(
                    f"loss: expected a finite number, got {loss} at step {trainer.step}; a lower "
                    "learning rate may help"
                )
            shown["loss"] = f"{loss:.3f}"
            if trainer.step == options.steps or trainer.step % options.validate_every == 0:
                shown["held-out perplexity"] = f"{trainer.validate(held_out):.3f}"
            bar.set_postfix(shown, refresh=False)
            bar.update(size)
            if not trainer.finished and trainer.step % save_every == 0:
                save()
    if trainer.finished:
        trainer.take_best()
    save()


def check_choice(name: str, value: str, allowed: tuple[str, ...] | dict[str, Any]) -> None:
    """Raises ValueError unless a value is one of those allowed."""
    if value not in allowed:
        raise ValueError(f"{name}: expected one of {tuple(allowed)}, got {value!r}")


def check_at_least(name: str, value: int, least: int) -> None:
    """Raises ValueError if a value is too small."""
    if value < least:
        raise ValueError(f"{name}: expected at least {least}, got {value}")


def under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Returns the tensors whose names begin with a prefix, without it."""
    return {name[len(prefix) :]: t for name, t in tensors.items() if name.startswith(prefix)}
