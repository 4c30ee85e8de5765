# SPDX-License-Identifier: MIT
"""A language model in a checkpoint: weights, vocabulary, configuration, position of training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from ..text.codec import Codec
from . import checkpoint
from .checkpoint import CheckpointError
from .language_model import LanguageModel, LanguageModelConfig
from .training import Trainer, TrainingOptions

_KIND = "language model"


class SavedLanguageModel(NamedTuple):
    """What a checkpoint of a language model holds."""

    model: LanguageModel
    codec: Codec
    options: TrainingOptions
    position: dict[str, Any]
    tensors: dict[str, Tensor]

    def resume(self, tokens: Tensor) -> Trainer:
        """Returns the training of the model where it was saved.

        Args:
            tokens: the text it was trained on, (n,).

        Raises:
            CheckpointError: it is another text, or the position is damaged.
            ValueError: the text is too short.
        """
        trainer = Trainer(self.model, tokens, self.options)
        with _fitting():
            trainer.restore(self.position, self.tensors)
        return trainer


def save_language_model(folder: str | Path, codec: Codec, trainer: Trainer) -> None:
    """Puts a language model and its training into a folder, as a checkpoint.

    Raises:
        OSError: it could not be written; the checkpoint that was there is untouched.
    """
    record = {
        "config": asdict(trainer.model.config),
        "options": asdict(trainer.options),
        "position": trainer.position(),
        "codec": codec.record(),
    }
    tensors = {f"model.{name}": value for name, value in trainer.model.state_dict().items()}
    tensors.update({f"training.{name}": value for name, value in trainer.tensors().items()})
    checkpoint.save(folder, _KIND, record, tensors)


def load_language_model(folder: str | Path) -> SavedLanguageModel:
    """Returns the language model in a folder.

    Raises:
        CheckpointError: there is no such checkpoint, or it is damaged.
    """
    record, tensors = checkpoint.load(folder, _KIND)
    with _fitting():
        model = LanguageModel(LanguageModelConfig(**record["config"]))
        model.load_state_dict(_under("model.", tensors))
        codec = Codec.from_record(record["codec"])
        options = TrainingOptions(**record["options"])
        position = record["position"]
    return SavedLanguageModel(model, codec, options, position, _under("training.", tensors))


@contextmanager
def _fitting() -> Iterator[None]:
    """Turns whatever a record of another make runs into into the one error for that."""
    try:
        yield
    except CheckpointError:
        raise
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"expected the checkpoint of a language model, got one that does not fit: {error!r}"
        ) from error


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name[len(prefix) :]: t for name, t in tensors.items() if name.startswith(prefix)}
