# SPDX-License-Identifier: MIT
"""Training of any model minibatch by minibatch: clipped, scheduled, shared, exactly resumable."""

from __future__ import annotations

import contextlib
import math
import random
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grad_norm_

from ...text.metrics import perplexity
from . import parallel, randomness
from .checkpoint import CheckpointError
from .kept_weights import KeptWeights
from .options import Options


class Diverged(ValueError):
    """Numbers of a training that are no longer finite."""


class Loss(NamedTuple):
    """The loss of a minibatch in this process."""

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
        # What says which look is the best, the lower the better; None: the loss does.
        self.judge: Callable[[Any], float] | None = None
        # What was said of each look.
        self.figures: list[float] = []
        self._digest = digest
        self._held_out: str | None = None
        self._epoch = 0
        self._used = 0
        self._batches = self._pass()
        self._kept = KeptWeights(best=options.patience > 0, last=options.average)
        # What is carried from one minibatch of a pass to the next.
        self._state: Any = None
        self._optimizer = _optimizer(model, options)
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
        return 0 < self._options.patience <= self._looks_since_best

    @property
    def at_best(self) -> bool:
        """Whether no look at what is held out was better than the last one."""
        return self._looks_since_best == 0

    @property
    def _looks_since_best(self) -> int:
        best = min(range(len(self.figures)), key=self.figures.__getitem__, default=0)
        return len(self.figures) - 1 - best

    @property
    def units_per_step(self) -> int:
        """The number of units that a step adds to the progress bar."""
        return self._options.batch_size * self._options.accumulate

    @abstractmethod
    def _minibatches(self, rng: random.Random) -> Iterator[Any]:
        """One pass over the data; rng says in which order, and nothing else does."""

    @abstractmethod
    def _loss(self, batch: Any) -> Loss:
        """The loss of this process's share of a minibatch."""

    @abstractmethod
    def evaluate(self, held_out: Any) -> Evaluation:
        """Returns how well the model predicts what is held out."""

    @abstractmethod
    def _name(self, held_out: Any) -> str:
        """Names what is held out in a checkpoint."""

    def hold_out(self, held_out: Any) -> None:
        """Notes what is held out, on which validation and early stopping depend.

        Raises:
            CheckpointError: the checkpoint gone on from held out something else.
        """
        name = self._name(held_out)
        if self._held_out not in (None, name):
            raise CheckpointError("expected what the checkpoint held out, got something else")
        self._held_out = name

    def train_step(self) -> float:
        """Trains on the next minibatch, or minibatches, and returns the mean loss.

        Raises:
            Diverged: the loss or its gradient is no finite number; the weights are as they were.
        """
        self._optimizer.zero_grad()
        mean = parallel.total(self._gradients())
        norm = clip_grad_norm_(self._module.parameters(), self._options.clip)
        # One wait for the device. The norm is of the shared gradients: all processes agree.
        for name, value in zip(("loss", "gradient"), _values(mean, norm), strict=True):
            if not math.isfinite(value):
                raise Diverged(
                    f"{name}: expected a finite number, got {value} at step {self.step + 1}; a "
                    "lower learning rate may help"
                )
        for group in self._optimizer.param_groups:
            group["lr"] = self._options.rate(self.step, self.validations)
        self._optimizer.step()
        self.losses.append(mean.item())
        return self.losses[-1]

    def _gradients(self) -> Tensor:
        """Adds up the gradients of a step; this process's part of the mean loss."""
        count, totals, divisor = self._options.accumulate, [], 0.0
        for _ in range(count):
            batch = self._next_batch()
            with self._precision():
                loss = self._loss(batch)
            # Of several, what to divide by is known at the end. The wrapper takes the mean of
            # what the processes have; the sum is wanted.
            part = self._world.size / (loss.divisor if count == 1 else 1.0)
            (loss.total * part).backward()
            totals.append(loss.total.detach())
            divisor += loss.divisor
        if count > 1:
            for parameter in self._module.parameters():
                if parameter.grad is not None:
                    parameter.grad /= divisor
        return sum(totals[1:], totals[0]) / divisor

    def validate(self, held_out: Any) -> float:
        """Returns the perplexity of what is held out, and notes it."""
        with self._precision():
            result = self.evaluate(held_out)
        self.validations.append((self.step, result.loss_sum / result.predicted))
        loss = self.validations[-1][1]
        self.figures.append(loss if self.judge is None else self.judge(held_out))
        self._kept.note(self._module, is_best=self.at_best)
        return result.perplexity

    def put_back(self) -> None:
        """Puts the weights to end with in place: the mean of the last, or the best, if kept."""
        self._kept.put_back(self._module)

    def check_weights(self) -> None:
        """Raises Diverged if a weight is no finite number."""
        for name, weight in self._module.named_parameters():
            if not bool(weight.isfinite().all()):
                raise Diverged(
                    f"{name}: expected finite numbers, got others after step {self.step}; a lower "
                    "learning rate may help"
                )

    def position(self) -> dict[str, Any]:
        """Returns what JSON can hold of the training's position."""
        return {
            "text": self._digest,
            "held_out": self._held_out,
            "step": self.step,
            "epoch": self._epoch,
            "minibatch": self._used,
            "validations": self.validations,
            "figures": self.figures,
        }

    def tensors(self) -> dict[str, Tensor]:
        """Returns the tensors of the training's position, by name; all processes must ask."""
        found = {"losses": torch.tensor(self.losses, dtype=torch.float64, device="cpu")}
        found.update(randomness.states(self._device))
        for index, entries in self._optimizer.state_dict()["state"].items():
            for name, value in entries.items():
                if isinstance(value, Tensor):
                    found[f"optimizer.{index}.{name}"] = value
        found.update(self._kept.tensors())
        return found

    def restore(self, position: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        """Puts the training where another was when it gave these.

        Raises:
            CheckpointError: the other was trained on something else, or by more or fewer
                processes.
        """
        if position["text"] != self._digest:
            raise CheckpointError("expected the text that the checkpoint was trained on")
        self._held_out = position.get("held_out")
        randomness.restore(tensors, self._device)
        self.losses = tensors["losses"].tolist()
        self.validations = [(step, loss) for step, loss in position["validations"]]
        self.figures = list(position.get("figures") or [loss for _, loss in self.validations])
        self._kept.restore(tensors)
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
    looked: Callable[[], None] = lambda: None,
) -> None:
    """Trains to the last step, with a progress bar.

    Args:
        trainer: goes on from where it is.
        held_out: what to validate on now and then and at the end; see `Training.evaluate`.
        save: called every `save_every` steps and at the end, in all processes.
        save_every: default 200.
        stop: looked at after every step; True, in any process, ends the training there, and saves.
        looked: called after every look at what is held out, in all processes.

    Raises:
        Diverged: the loss or the weights are no longer finite numbers; nothing is saved then.
        CheckpointError: the checkpoint gone on from held out something else.
    """
    from tqdm import tqdm

    trainer.hold_out(held_out)
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
            shown["loss"] = f"{trainer.train_step():.3f}"
            if trainer.step == options.steps or trainer.step % options.validate_every == 0:
                shown["held-out perplexity"] = f"{trainer.validate(held_out):.3f}"
                looked()
            bar.set_postfix(shown, refresh=False)
            bar.update(size)
            if not trainer.finished and trainer.step % save_every == 0:
                trainer.check_weights()
                save()
    if trainer.finished:
        trainer.put_back()
    trainer.check_weights()
    save()


def _optimizer(model: nn.Module, options: Options) -> torch.optim.Optimizer:
    parameters, rate = model.parameters(), options.learning_rate
    if options.optimizer == "sgd":
        return torch.optim.SGD(parameters, rate)
    if options.optimizer == "adamw":
        return torch.optim.AdamW(parameters, rate, weight_decay=options.weight_decay)
    return torch.optim.Adam(parameters, rate)


def _values(*scalars: Tensor) -> list[float]:
    return torch.stack([scalar.double() for scalar in scalars]).tolist()


def under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Returns the tensors whose names begin with a prefix, without it."""
    return {name[len(prefix) :]: t for name, t in tensors.items() if name.startswith(prefix)}
