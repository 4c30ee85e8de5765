# SPDX-License-Identifier: MIT
"""Trainings from text to checkpoint, whoever asked for them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import explain
from ..seq2seq import (
    LanguageModel,
    LanguageModelConfig,
    Trainer,
    Training,
    TrainingOptions,
    load_language_model,
    save_language_model,
    train,
)
from ..seq2seq.parallel import world
from ..text import Codec, TextError, Vocab
from ..text.batches import least_tokens
from .interruption import interruption


class Job(NamedTuple):
    """A training ready to run."""

    codec: Codec
    trainer: Trainer
    held_out: Tensor


def start(
    name: str, text: str, codec: Codec, options: TrainingOptions, config: dict[str, Any]
) -> Job:
    """Returns a new training on a text; its vocabulary is that of the part trained on.

    Args:
        name: what to call the text in errors.
        text: the whole text.
        codec: the tokenizer and the normalization to use; its vocabulary is not looked at.
        options: how to train.
        config: of the model, all but vocab_size.

    Raises:
        TextError: the text is too short.
    """
    tokens = codec.split(text)
    codec = codec._replace(vocab=Vocab(tokens[: options.split(len(tokens))]))
    head, held_out = _split(name, torch.tensor(codec.vocab.encode(tokens)), options)
    torch.manual_seed(options.seed)
    model = LanguageModel(LanguageModelConfig(vocab_size=len(codec.vocab), **config))
    return Job(codec, Trainer(model, head, options), held_out)


def resume(name: str, text: str, folder: Path) -> Job:
    """Returns the training whose checkpoint is in a folder, where it was.

    Raises:
        CheckpointError: there is no checkpoint, it is damaged, or it is of another text.
        TextError: the text is too short.
    """
    saved = load_language_model(folder)
    head, held_out = _split(name, saved.codec.encode(text), saved.options)
    return Job(saved.codec, saved.resume(head), held_out)


def describe(job: Job) -> str:
    """Returns lines on what a training is about to do."""
    options, model = job.trainer.options, job.trainer.model
    unknown = int((job.held_out == Vocab.unknown).sum())
    x = torch.zeros(options.num_steps, options.batch_size, model.rnn.input_size)
    return "\n".join(
        (
            f"Text: {len(job.trainer.tokens):,} tokens to train on, {len(job.held_out):,} held "
            f"out; of these, {unknown:,} are outside the vocabulary of {len(job.codec.vocab):,} "
            "and read as <unk>",
            f"Model: {model.config.cell}, {model.config.num_layers} x {model.config.hidden_size}, "
            f"{sum(p.numel() for p in model.parameters()):,} parameters; {options.steps:,} steps "
            f"of {options.batch_size} x {options.num_steps} tokens",
            f"Recurrence: {explain(model.rnn, x)}",
        )
    )


def run(job: Job, folder: Path, *, save_every: int = 200) -> bool:
    """Trains to the end, or to Ctrl-C, saving checkpoints; returns whether it was the end."""

    def save() -> None:
        save_language_model(folder, job.codec, job.trainer)

    return run_training(job.trainer, job.held_out, save, folder, save_every=save_every)


def run_training(
    trainer: Training, held_out: Any, save: Callable[[], None], folder: Path, *, save_every: int
) -> bool:
    """Trains anything to the end, or to Ctrl-C; returns whether it was the end."""
    with interruption() as asked:
        # Before the first step, so that a folder that cannot be written to costs no time.
        save()
        train(trainer, held_out, save=save, save_every=save_every, stop=asked.is_set)
    if not trainer.finished:
        say(f"Stopped after step {trainer.step:,}, saved in {folder}; --resume goes on.")
    return trainer.finished


def say(text: str) -> None:
    """Prints a text, in one of the processes that train together."""
    if world().main:
        print(text, flush=True)


def _split(name: str, numbers: Tensor, options: TrainingOptions) -> tuple[Tensor, Tensor]:
    """The part to train on and the held-out part."""
    head = options.split(len(numbers))
    least = least_tokens(options.batch_size, options.num_steps)
    if head < least or len(numbers) - head < 2:
        raise TextError(
            f"{name}: too short, expected at least {least:,} tokens to train on in minibatches of "
            f"{options.batch_size} x {options.num_steps} and 2 held out, got {max(head, 0):,} and "
            f"{len(numbers) - head:,}; a smaller --batch-size or --num-steps needs less"
        )
    return numbers[:head], numbers[head:]
