# SPDX-License-Identifier: MIT
"""Models in checkpoints: weights, vocabularies, configuration, position of training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from ...text.codec import Codec
from ...text.pairs import PairData
from ...text.streaming import StreamedText
from ..models.language_model import LanguageModel, LanguageModelConfig
from ..models.translator import Translator, TranslatorConfig, TranslatorTraining
from . import checkpoint, parallel
from .checkpoint import Checkpoint, CheckpointError
from .language_model_training import Trainer, TrainingOptions
from .options import Options
from .training import Training, under

_LANGUAGE_MODEL = "language model"
_TRANSLATOR = "translator"


class SavedLanguageModel(NamedTuple):
    """The contents of a language model's checkpoint."""

    model: LanguageModel
    codec: Codec
    options: TrainingOptions
    position: dict[str, Any]
    tensors: dict[str, Tensor]
    # Whether `<unk>` was trained on, without which what it costs has no meaning.
    knows_unknown: bool
    # What else the training's owner wanted kept.
    data: dict[str, Any]

    def resume(self, tokens: Tensor | StreamedText) -> Trainer:
        """Returns the training of the model where it was saved.

        Args:
            tokens: the text it was trained on, (n,), or a stream of it.

        Raises:
            CheckpointError: it is another text, or the position is damaged.
            ValueError: the text is too short.
        """
        trainer = Trainer(self.model, tokens, self.options)
        with _fitting(_LANGUAGE_MODEL):
            trainer.restore(self.position, self.tensors)
        return trainer


class SavedTranslator(NamedTuple):
    """The contents of a translator's checkpoint."""

    model: Translator
    source: Codec
    target: Codec
    options: Options
    # What else the training's owner wanted kept.
    data: dict[str, Any]
    position: dict[str, Any]
    tensors: dict[str, Tensor]

    def resume(self, pairs: PairData) -> TranslatorTraining:
        """Returns the training of the model where it was saved.

        Args:
            pairs: what it was trained on.

        Raises:
            CheckpointError: they are other pairs, or the position is damaged.
        """
        trainer = TranslatorTraining(self.model, pairs, self.target.vocab.bos, self.options)
        with _fitting(_TRANSLATOR):
            trainer.restore(self.position, self.tensors)
        return trainer


def save_language_model(
    folder: str | Path, codec: Codec, trainer: Trainer, data: Mapping[str, Any] | None = None
) -> None:
    """Puts a language model and its training into a folder, as a checkpoint.

    Of processes that train together, all must ask; the first one writes.

    Args:
        data: whatever JSON can hold, kept beside the rest. Default None: nothing.
        folder, codec, trainer: what to save where.

    Raises:
        OSError: it could not be written; the checkpoint that was there is untouched.
    """
    record = {
        "config": asdict(trainer.model.config),
        "codec": codec.record(),
        "knows_unknown": trainer.knows_unknown,
        "data": dict(data or {}),
    }
    _save(folder, _LANGUAGE_MODEL, record, trainer.model, trainer, trainer.options)


def save_translator(
    folder: str | Path,
    source: Codec,
    target: Codec,
    trainer: TranslatorTraining,
    data: Mapping[str, Any],
) -> None:
    """Puts a translator and its training into a folder, as a checkpoint.

    Of processes that train together, all must ask; the first one writes.

    Args:
        data: whatever JSON can hold, kept beside the rest.
        folder, source, target, trainer: what to save where.

    Raises:
        OSError: it could not be written; the checkpoint that was there is untouched.
        ValueError: the model is not made from a configuration.
    """
    model = trainer.model
    if not isinstance(model, Translator):
        raise ValueError(f"trainer: expected one of a Translator, got {type(model).__name__}")
    record = {
        "config": asdict(model.config),
        "source": source.record(),
        "target": target.record(),
        "data": dict(data),
    }
    _save(folder, _TRANSLATOR, record, model, trainer, trainer.options)


def load_language_model(folder: str | Path) -> SavedLanguageModel:
    """Returns the language model in a folder.

    Raises:
        CheckpointError: there is no such checkpoint, it is damaged, or its vocabulary is not that
            of its weights.
    """
    with _loaded(folder, _LANGUAGE_MODEL) as (record, tensors):
        model = LanguageModel(LanguageModelConfig(**record["config"]))
        model.load_state_dict(under("model.", tensors))
        codec = Codec.from_record(record["codec"])
        options = TrainingOptions(**record["options"])
        _check_size(folder, "", codec, model.config.vocab_size)
        position, training = record["position"], under("training.", tensors)
        # Those saved before it was noted are taken to have none.
        known, data = bool(record.get("knows_unknown", False)), record.get("data", {})
    return SavedLanguageModel(model, codec, options, position, training, known, data)


def load_translator(folder: str | Path) -> SavedTranslator:
    """Returns the translator in a folder.

    Raises:
        CheckpointError: there is no such checkpoint, it is damaged, or its vocabularies are not
            those of its weights.
    """
    with _loaded(folder, _TRANSLATOR) as (record, tensors):
        config = TranslatorConfig(**record["config"])
        model = Translator(config)
        model.load_state_dict(under("model.", tensors))
        source, target = (Codec.from_record(record[side]) for side in ("source", "target"))
        for side, codec in (("source", source), ("target", target)):
            _check_size(folder, f"{side} ", codec, getattr(config, f"{side}_vocab_size"))
        options = Options(**record["options"])
        data, position = record["data"], record["position"]
        training = under("training.", tensors)
    return SavedTranslator(model, source, target, options, data, position, training)


def _check_size(folder: str | Path, side: str, codec: Codec, size: int) -> None:
    if len(codec.vocab) != size:
        raise CheckpointError(
            f"{folder}: expected a {side}vocabulary of {size:,} tokens as the weights have, got "
            f"{len(codec.vocab):,}"
        )


def _save(
    folder: str | Path,
    kind: str,
    record: dict[str, Any],
    model: nn.Module,
    trainer: Training,
    options: Options,
) -> None:
    record = {**record, "options": asdict(options), "position": trainer.position()}
    tensors = {f"model.{name}": value.clone() for name, value in model.state_dict().items()}
    tensors.update({f"training.{name}": value for name, value in trainer.tensors().items()})
    if parallel.world().main:
        checkpoint.save(folder, kind, record, tensors)


@contextmanager
def _loaded(folder: str | Path, kind: str) -> Iterator[Checkpoint]:
    found = checkpoint.load(folder, kind)
    with _fitting(kind):
        yield found


@contextmanager
def _fitting(kind: str) -> Iterator[None]:
    """Turns whatever a record of another make runs into into the one error for that."""
    try:
        yield
    except CheckpointError:
        raise
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"expected the checkpoint of a {kind}, got one that does not fit: {error!r}"
        ) from error
