# SPDX-License-Identifier: MIT
"""Trainings from text to checkpoint, whoever asked for them."""

import csv
import io
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from .. import explain
from ..seq2seq import (
    Diverged,
    LanguageModel,
    LanguageModelConfig,
    SavedLanguageModel,
    Trainer,
    Training,
    TrainingOptions,
    load_language_model,
    save_language_model,
    train,
)
from ..seq2seq.training.files import replace_file
from ..seq2seq.training.parallel import world
from ..text import (
    SUBWORD,
    Codec,
    StreamedText,
    Subwords,
    TextError,
    Vocab,
    corpus,
    normalize,
    read_lines,
    read_text,
)
from ..text.batches import least_tokens
from ..text.reading import refuse_pipe
from .interruption import interruption
from .options import Saving, read_held_out
from .pictures import refuse_unwritable
from .snapshots import Snapshots

PICTURE = "curves.png"
# Corpora that are texts, not pairs.
TEXTS = ("time-machine", "jaychou-lyrics")


@dataclass(frozen=True, kw_only=True)
class TextData:
    """The options of a text's tokens, besides tokenizer and normalization, and of held-out text."""

    min_freq: int = 0
    subwords: int = 8000
    validation: str = ""
    stream: bool = False

    def __post_init__(self) -> None:
        if self.stream and not self.validation:
            raise ValueError("--stream: expected --validation with it, as nothing is held out")


class Job(NamedTuple):
    """A training ready to run."""

    codec: Codec
    trainer: Trainer
    held_out: Tensor
    data: TextData


def text_of(name: str, data: TextData) -> str | Path:
    """Returns the text of a file or of a corpus known by name, or its path, to be streamed."""
    known = name in TEXTS and not Path(name).exists()
    path = corpus(name) if known else Path(name)
    return path if data.stream else read_text(path)


def start(
    name: str,
    text: str | Path,
    codec: Codec,
    options: TrainingOptions,
    config: dict[str, Any],
    data: TextData | None = None,
) -> Job:
    """Returns a new training on a text; its vocabulary is that of the part trained on.

    Args:
        name: what to call the text in errors.
        text: the whole text, or the path of one to be streamed.
        codec: the tokenizer and the normalization to use; its vocabulary is not looked at.
        options: how to train.
        config: of the model, all but vocab_size.
        data: the rest. Default None: as it stands in TextData.

    Raises:
        TextError: the text is too short, or no token is frequent enough.
    """
    data = TextData() if data is None else data
    codec = _learnt(text, codec, options, data)
    torch.manual_seed(options.seed)
    model = LanguageModel(LanguageModelConfig(vocab_size=len(codec.vocab), **config))
    job = _job(name, text, codec, model, options, data)
    if len(codec.vocab) == 1:
        raise TextError(
            f"{name}: expected tokens seen at least {max(1, data.min_freq)} times, got none; a "
            "lower --min-freq keeps rarer ones"
        )
    return job


def resume(name: str, saved: SavedLanguageModel, data: TextData) -> Job:
    """Returns the training that a checkpoint was saved of, where it was.

    Raises:
        CheckpointError: the checkpoint is damaged, or it is of another text.
        TextError: the text is too short.
    """
    head, held_out = _parts(name, text_of(name, data), saved.codec, saved.options, data)
    return Job(saved.codec, saved.resume(head), held_out, data)


def go_on(
    name: str, folder: str, options: dict[str, Any], config: dict[str, Any], data: TextData
) -> Job:
    """Returns a new training of the model whose checkpoint is in a folder, on any text.

    Args:
        name: file of the text.
        folder: of the checkpoint, which is left as it is.
        options: those of the training that differ from the checkpoint's.
        config: those of the model that differ from the checkpoint's.
        data: the rest.

    Raises:
        CheckpointError: there is no checkpoint, or it is damaged.
        TextError: the text is too short.
    """
    saved = load_language_model(folder)
    training = replace(saved.options, **options)
    torch.manual_seed(training.seed)
    model = LanguageModel(replace(saved.model.config, **config))
    model.load_state_dict(saved.model.state_dict())
    return _job(name, text_of(name, data), saved.codec, model, training, data)


def describe(job: Job) -> str:
    """Returns lines on what a training is about to do."""
    options, model = job.trainer.options, job.trainer.model
    tokens = job.trainer.tokens
    count = f"{len(tokens):,}" if isinstance(tokens, Tensor) else "a stream of"
    unknown = int((job.held_out == Vocab.unknown).sum())
    skipped = ", not counted as the model knows none" if unknown and job.trainer.never_seen else ""
    x = torch.zeros(options.num_steps, options.batch_size, model.rnn.input_size)
    return "\n".join(
        (
            f"Text: {count} tokens to train on, {len(job.held_out):,} held "
            f"out; of these, {unknown:,} are outside the vocabulary of {len(job.codec.vocab):,} "
            f"and read as <unk>{skipped}",
            f"Model: {model.config.cell}, {model.config.num_layers} x {model.config.hidden_size}, "
            f"{sum(p.numel() for p in model.parameters()):,} parameters; {options.steps:,} steps "
            f"of {options.batch_size} x {options.num_steps} tokens",
            f"Recurrence: {explain(model.rnn, x)}",
        )
    )


def run_job(job: Job, folder: Path, saving: Saving | None = None) -> bool:
    """Trains to the end, or to Ctrl-C, saving checkpoints; returns whether it was the end."""

    def save(place: Path) -> None:
        save_language_model(place, job.codec, job.trainer, asdict(job.data))

    return run_training(job.trainer, job.held_out, save, folder, saving or Saving())


def run_training(
    trainer: Training,
    held_out: Any,
    save: Callable[[Path], None],
    folder: Path,
    saving: Saving,
) -> bool:
    """Trains anything to the end, or to Ctrl-C; returns whether it was the end.

    Args:
        trainer: goes on from where it is.
        held_out: what to validate on.
        save: writes a checkpoint into a folder.
        folder: of the checkpoint and the picture.
        saving: when, and what beside it.

    Raises:
        OSError: the checkpoint, or the picture drawn at the end, cannot be written.
        Diverged: numbers are no longer finite; the message says how to go on.
    """
    trainer.hold_out(held_out)
    saved = trainer.step
    snapshots = Snapshots(folder, save, best=saving.keep_best, last=saving.keep_last)

    def note() -> None:
        nonlocal saved
        save(folder)
        saved = trainer.step
        if saving.log is not None and world().main:
            write_log(Path(saving.log), trainer)

    if saving.log is not None and world().main:
        refuse_unwritable(Path(saving.log))
    with interruption() as asked:
        # Before the first step, so that a folder that cannot be written to costs no time.
        note()
        if world().main:
            refuse_unwritable(folder / PICTURE)
        try:
            train(
                trainer,
                held_out,
                save=note,
                save_every=saving.save_every,
                stop=asked.is_set,
                looked=partial(snapshots.note, trainer),
            )
        except Diverged as error:
            raise Diverged(
                f"{error}: {folder} holds step {saved:,}, from which --continue-from {folder} "
                "starts, with another --out and a lower --learning-rate"
            ) from None
    if not trainer.finished:
        say(f"Stopped after step {trainer.step:,}, saved in {folder}; --resume goes on.")
    return trainer.finished


def write_log(path: Path, trainer: Training) -> None:
    """Writes the losses of all steps so far, and those of what is held out, as CSV."""
    held_out = dict(trainer.validations)
    text = io.StringIO(newline="")
    rows = csv.writer(text)
    rows.writerow(("step", "loss", "held_out_loss"))
    rows.writerows(
        (step, loss, held_out.get(step, "")) for step, loss in enumerate(trainer.losses, 1)
    )
    replace_file(path, text.getvalue().encode())


def say(text: str) -> None:
    """Prints a text, in one of the processes that train together."""
    if world().main:
        print(text, flush=True)


class _Lines:
    """The lines of a file, each with its end, as often as they are asked for."""

    def __init__(self, path: Path) -> None:
        refuse_pipe(path)
        self._path = path

    def __iter__(self) -> Iterator[str]:
        return (f"{line}\n" for line in read_lines(self._path))


def _learnt(text: str | Path, codec: Codec, options: TrainingOptions, data: TextData) -> Codec:
    """The codec with what is learnt of the part trained on."""

    def head(length: int) -> int:
        return length if data.validation else options.split(length)

    if codec.tokenizer == SUBWORD:
        # Pieces of a text, not sentences: what follows a line's end is no word behind a space.
        lines = _Lines(text) if isinstance(text, Path) else text[: head(len(text))].splitlines(True)
        learnt = Subwords.train(_normal(lines, codec), data.subwords, sentences=False)
        codec = codec._replace(subwords=learnt)
    tokens: Iterable[str]
    if isinstance(text, Path):
        tokens = (token for line in _Lines(text) for token in codec.split(line))
    else:
        tokens = codec.split(text)
        tokens = tokens[: head(len(tokens))]
    if codec.subwords is not None:
        # Parts of which others were made may come by themselves in other texts.
        tokens = chain(tokens, codec.subwords.tokens[1:])
    return codec._replace(vocab=Vocab(tokens, min_freq=data.min_freq))


def _normal(lines: Any, codec: Codec) -> Iterator[str]:
    return (piece for line in lines for piece in normalize(line, codec.normalization))


def _job(
    name: str,
    text: str | Path,
    codec: Codec,
    model: LanguageModel,
    options: TrainingOptions,
    data: TextData,
) -> Job:
    head, held_out = _parts(name, text, codec, options, data)
    job = Job(codec, Trainer(model, head, options), held_out, data)
    if job.trainer.never_seen and not bool((held_out[1:] != Vocab.unknown).any()):
        raise TextError(f"{name}: expected known tokens to be held out, got none")
    return job


def _parts(
    name: str, text: str | Path, codec: Codec, options: TrainingOptions, data: TextData
) -> tuple[Tensor | StreamedText, Tensor]:
    """The part to train on and the held-out part."""
    held_out = None
    if data.validation:
        held_out = codec.encode(read_held_out(lambda: read_text(data.validation)))
        if len(held_out) < 2:
            raise TextError(f"{data.validation}: expected at least 2 tokens, got {len(held_out)}")
    if isinstance(text, str):
        return _split(name, codec.encode(text), options, held_out)
    # A stream has a file to hold out: see TextData.
    return StreamedText(text, codec), cast(Tensor, held_out)


def _split(
    name: str, numbers: Tensor, options: TrainingOptions, held_out: Tensor | None
) -> tuple[Tensor, Tensor]:
    head = options.split(len(numbers)) if held_out is None else len(numbers)
    rest = numbers[max(head, 0) :] if held_out is None else held_out
    least = least_tokens(options.batch_size, options.num_steps)
    if head < least or len(rest) < 2:
        raise TextError(
            f"{name}: too short, expected at least {least:,} tokens to train on in minibatches of "
            f"{options.batch_size} x {options.num_steps} and 2 held out, got {max(head, 0):,} and "
            f"{len(rest):,}; a smaller --batch-size or --num-steps needs less"
        )
    return numbers[:head], rest
