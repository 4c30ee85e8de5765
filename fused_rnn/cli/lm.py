# SPDX-License-Identifier: MIT
"""`fused-rnn lm train` and `evaluate`: a language model from a text file, and how good it is."""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..seq2seq import (
    CELLS,
    OPTIMIZERS,
    PRECISIONS,
    SAMPLINGS,
    SCHEDULES,
    LanguageModelConfig,
    TrainingOptions,
    evaluate,
    load_language_model,
)
from ..seq2seq.training.parallel import launched, world
from ..text import NORMALIZATIONS, SUBWORD, TOKENIZERS, Codec, TextError, Vocab, read_text
from . import job as jobs
from . import writing
from .curves import Course, draw_training
from .options import (
    OTHER_OPTIONS,
    TRAINING_HELP,
    add_fields,
    add_option,
    add_places,
    check_places,
    given_of,
    need,
    recorded,
    refuse_changes,
    saving_of,
)

_CHOICES = {
    "cell": CELLS,
    "sampling": SAMPLINGS,
    "optimizer": OPTIMIZERS,
    "schedule": SCHEDULES,
    "precision": PRECISIONS,
    "tokenizer": (*TOKENIZERS, SUBWORD),
    "normalization": NORMALIZATIONS,
}
_CODEC_HELP = {
    "tokenizer": "what a token is",
    "normalization": "how the text is simplified first",
}
_DATA_HELP = {
    "min_freq": "tokens seen fewer times are <unk>",
    "subwords": "how many are learnt, with --tokenizer subword",
    "validation": "file of text to hold out instead of the end",
    "stream": "read the file in pieces, for what does not fit into memory",
}
_MODEL_HELP = {
    "cell": "kind of recurrent layer",
    "hidden_size": "size of a layer's state",
    "num_layers": "layers",
    "embedding_size": "size of a token's vector; 0 = one-hot",
    "dropout": "on embeddings, between layers and before the output",
    "tied": "whether the output layer's weight is the embedding's",
}
_TRAINING_HELP = {
    **TRAINING_HELP,
    "num_steps": "tokens of a row; gradients reach back as far",
    "sampling": "sequential carries the state from minibatch to minibatch, random does not",
    "held_out": "part of the text, at its end, that is not trained on",
}


def add_commands(actions: Any) -> None:
    """Adds train, generate and evaluate to the actions of `fused-rnn lm`."""
    parser = actions.add_parser("train", help="train on a text file")
    parser.set_defaults(run=_train)
    names = " or ".join(f"'{name}'" for name in jobs.TEXTS)
    text = f"UTF-8 text in any script; or {names}, which is downloaded once"
    parser.add_argument("file", metavar="FILE", help=text)
    add_places(parser)
    codec_defaults = Codec._field_defaults
    for name, text in _CODEC_HELP.items():
        add_option(parser, name, codec_defaults[name], text, _CHOICES[name])
    add_fields(parser, jobs.TextData, _DATA_HELP, _CHOICES)
    add_fields(parser, LanguageModelConfig, _MODEL_HELP, _CHOICES)
    add_fields(parser, TrainingOptions, _TRAINING_HELP, _CHOICES)

    writing.add_command(actions)
    parser = actions.add_parser("evaluate", help="perplexity of a text file")
    parser.set_defaults(run=_evaluate)
    parser.add_argument("model", metavar="DIR", help="folder of the checkpoint")
    parser.add_argument("file", metavar="FILE", help="UTF-8 text")


def _train(arguments: argparse.Namespace) -> int:
    with launched():
        return _train_here(arguments)


def _train_here(arguments: argparse.Namespace) -> int:
    need("safetensors", "tqdm", "matplotlib")
    folder = check_places(arguments)
    codec, data, config, training = (
        given_of(arguments, names)
        for names in (_CODEC_HELP, _DATA_HELP, _MODEL_HELP, _TRAINING_HELP)
    )
    if data.get("validation"):
        # The checkpoint may be gone on from elsewhere.
        data["validation"] = str(Path(data["validation"]).absolute())
    if arguments.resume:
        job = _resumed(arguments.file, folder, {**codec, **config, **training}, data)
    elif arguments.continue_from:
        job = _continued(arguments, {**codec, **data}, training, config)
    else:
        _need_tokenizer(codec.get("tokenizer"))
        texts, options = jobs.TextData(**data), TrainingOptions(**training)
        text = jobs.text_of(arguments.file, texts)
        job = jobs.start(arguments.file, text, Codec(Vocab(), **codec), options, config, texts)
    jobs.say(jobs.describe(job))
    if not jobs.run_job(job, folder, saving_of(arguments)):
        return 130
    result = evaluate(job.trainer.model, job.held_out, skip=job.trainer.never_seen)
    jobs.say(f"Held-out perplexity {result.perplexity:.3f} over {result.predicted:,} tokens")
    course = Course(job.trainer.losses, job.trainer.validations, result.perplexity)
    if world().main:
        draw_training(folder / jobs.PICTURE, course)
    jobs.say(f"Checkpoint and {jobs.PICTURE} are in {folder}")
    return 0


def _resumed(name: str, folder: Path, given: dict[str, Any], data: dict[str, Any]) -> jobs.Job:
    """The training whose checkpoint is in a folder, where it was."""
    saved = load_language_model(folder)
    before = recorded(jobs.TextData, saved.data)
    moved = {key: data.pop(key) for key in ("validation",) if key in data}
    holders = (saved.codec, saved.model.config, saved.options, before)
    refuse_changes({**given, **data}, holders, OTHER_OPTIONS)
    return jobs.resume(name, saved, replace(before, **moved))


def _continued(
    arguments: argparse.Namespace,
    data: dict[str, Any],
    training: dict[str, Any],
    config: dict[str, Any],
) -> jobs.Job:
    """A new training of a model that has been trained before."""
    saved = load_language_model(arguments.continue_from)
    before = recorded(jobs.TextData, saved.data)
    free = {name: data.pop(name) for name in ("validation", "stream") if name in data}
    changed = {name: config.pop(name) for name in ("dropout",) if name in config}
    # What makes the weights and the numbers of tokens what they are.
    refuse_changes({**data, **config}, (saved.codec, saved.model.config, before))
    texts = replace(jobs.TextData(**free), min_freq=before.min_freq, subwords=before.subwords)
    return jobs.go_on(arguments.file, arguments.continue_from, training, changed, texts)


def _need_tokenizer(name: str | None) -> None:
    if name == SUBWORD:
        need("tokenizers")


def _evaluate(arguments: argparse.Namespace) -> int:
    need("safetensors")
    saved = load_language_model(arguments.model)
    numbers = saved.codec.encode(read_text(arguments.file))
    if len(numbers) < 2:
        raise TextError(f"{arguments.file}: expected at least 2 tokens, got {len(numbers)}")
    skip = () if saved.knows_unknown else (Vocab.unknown,)
    unknown = int((numbers == Vocab.unknown).sum())
    skipped = ", not counted as the model knows none" if unknown and skip else ""
    if unknown == len(numbers):
        raise TextError(f"{arguments.file}: expected tokens of the vocabulary, got none")
    result = evaluate(saved.model, numbers, skip=skip)
    print(
        f"Perplexity {result.perplexity:.3f} over {result.predicted:,} tokens; "
        f"{unknown:,} tokens of the text are outside the vocabulary and read as <unk>{skipped}"
    )
    return 0
