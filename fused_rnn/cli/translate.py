# SPDX-License-Identifier: MIT
"""`fused-rnn translate train`: a translator from a file of sentence pairs."""

import argparse
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from .. import explain
from ..seq2seq import (
    ATTENDS,
    ATTENTIONS,
    CELLS,
    OPTIMIZERS,
    PRECISIONS,
    SCHEDULES,
    Options,
    Translator,
    TranslatorConfig,
    TranslatorTraining,
    corpus_scores,
    load_translator,
    save_translator,
    translate,
)
from ..seq2seq.training.parallel import launched, world
from ..text import NORMALIZATIONS, SUBWORD, TOKENIZERS, Codec, Pair, PairData, Pairs, perplexity
from . import evaluations, pair_data, translations
from . import job as jobs
from .curves import Course, draw_training
from .options import (
    OTHER_OPTIONS,
    TRAINING_HELP,
    add_fields,
    add_places,
    check_places,
    given_of,
    need,
    recorded,
    refuse_changes,
    saving_of,
)
from .pair_data import DataOptions, Parts, Place, references_of

_CHOICES = {
    "tokenizer": (*TOKENIZERS, SUBWORD),
    "normalization": NORMALIZATIONS,
    "cell": CELLS,
    "attention": ("none", *ATTENTIONS),
    "attend": ATTENDS,
    "optimizer": OPTIMIZERS,
    "schedule": SCHEDULES,
    "stop_on": pair_data.STOPS_ON,
    "precision": PRECISIONS,
}
_MODEL_HELP = {
    "cell": "kind of recurrent layer",
    "hidden_size": "size of a layer's state",
    "num_layers": "layers of the encoder and of the decoder",
    "embedding_size": "size of a token's vector",
    "bidirectional": "whether the encoder reads both ways",
    "attention": "how the decoder looks at the source; none = one context a sentence",
    "attend": "before or after the decoder's step",
    "dropout": "between layers",
    "outer_dropout": "on embeddings and before the output",
    "tied": "whether the output layer's weight is the target embedding's",
    "shared_embedding": "whether both languages have one, with --shared-vocabulary",
}


# What a model of the same weights may have otherwise.
_FREE = ("dropout", "outer_dropout")


class _Job(NamedTuple):
    """A training ready to run."""

    codecs: tuple[Codec, Codec]
    model: Translator
    trainer: TranslatorTraining
    held_out: PairData
    data: DataOptions
    held: list[Pair]

    def by_bleu(self, held_out: PairData) -> float:
        """The distance from a BLEU of 100 of the translations of what is held out."""
        references = references_of(self.held, self.codecs[1])
        found = translate(self.model, *self.codecs, references)
        texts = [one.candidates[0].text if one.candidates else "" for one in found]
        return 100 - corpus_scores(texts, list(references.values()))["bleu"]


class _Given(NamedTuple):
    """The options given, those of each kind."""

    data: dict[str, Any]
    config: dict[str, Any]
    training: dict[str, Any]


def add_commands(actions: Any) -> None:
    """Adds the actions of `fused-rnn translate`."""
    parser = actions.add_parser("train", help="train on sentence pairs")
    parser.set_defaults(run=_train)
    parser.add_argument(
        "pairs",
        metavar="PAIRS",
        help="UTF-8 file, a pair a line: source, tab, target; or, with --target, of the sources; "
        f"or '{pair_data.CORPUS}', which is downloaded once; or '{pair_data.NUMBERS}' for number "
        "words",
    )
    parser.add_argument("--target", metavar="FILE", help="file of the targets, a sentence a line")
    add_places(parser)
    add_fields(parser, DataOptions, pair_data.HELP, _CHOICES)
    add_fields(parser, TranslatorConfig, _MODEL_HELP, _CHOICES)
    add_fields(parser, Options, TRAINING_HELP, _CHOICES)
    translations.add_commands(actions)
    evaluations.add_commands(actions)


def _train(arguments: argparse.Namespace) -> int:
    with launched():
        return _train_here(arguments)


def _train_here(arguments: argparse.Namespace) -> int:
    need("safetensors", "tqdm", "matplotlib")
    folder = check_places(arguments)
    names = (pair_data.HELP, _MODEL_HELP, TRAINING_HELP)
    given = _Given(*(given_of(arguments, own) for own in names))
    for name in pair_data.PATHS:
        if given.data.get(name):
            # The checkpoint may be gone on from elsewhere.
            given.data[name] = str(Path(given.data[name]).absolute())
    place = Place(arguments.pairs, arguments.target)
    if arguments.resume:
        job = _resumed(place, folder, given)
    elif arguments.continue_from:
        job = _continued(place, arguments.continue_from, given)
    else:
        job = _start(place, given)
    if job.data.stop_on == "bleu":
        need("sacrebleu")
        job.trainer.judge = job.by_bleu
    jobs.say(_describe(job))

    def save(place: Path) -> None:
        save_translator(place, *job.codecs, job.trainer, asdict(job.data))

    if not jobs.run_training(job.trainer, job.held_out, save, folder, saving_of(arguments)):
        return 130
    final = _final(job)
    jobs.say(f"Held-out perplexity {final:.3f} a token")
    if world().main:
        course = Course(job.trainer.losses, job.trainer.validations, final)
        draw_training(folder / jobs.PICTURE, course)
    jobs.say(f"Checkpoint and {jobs.PICTURE} are in {folder}")
    return 0


def _final(job: _Job) -> float:
    """The perplexity of what is held out by the weights that the training has ended with."""
    trainer = job.trainer
    if trainer.options.average or trainer.judge is not None:
        return trainer.evaluate(job.held_out).perplexity
    looks = trainer.validations[-(trainer.options.patience + 1) :]
    return perplexity(min(loss for _, loss in looks), 1)


def _start(place: Place, given: _Given) -> _Job:
    """A new training; its vocabularies are those of what it trains on."""
    data, options = DataOptions(**given.data), Options(**given.training)
    parts = Parts.read(place._replace(seed=options.seed), data)
    codecs = parts.learn(place.name, data)
    torch.manual_seed(options.seed)
    sizes = [len(codec.vocab) for codec in codecs]
    model = Translator(
        TranslatorConfig(source_vocab_size=sizes[0], target_vocab_size=sizes[1], **given.config)
    )
    return _job(parts, codecs, model, options, data)


def _resumed(place: Place, folder: Path, given: _Given) -> _Job:
    """The training whose checkpoint is in a folder, where it was."""
    saved = load_translator(folder)
    before, codecs = recorded(DataOptions, saved.data), (saved.source, saved.target)
    moved = {name: given.data.pop(name) for name in pair_data.PATHS if name in given.data}
    holders = (before, saved.model.config, saved.options)
    refuse_changes({**given.data, **given.config, **given.training}, holders, OTHER_OPTIONS)
    data = replace(before, **moved)
    parts = Parts.read(place._replace(seed=saved.options.seed), data)
    train, held = parts.encoded(codecs, data)
    return _Job(codecs, saved.model, saved.resume(train), held, data, parts.held)


def _continued(place: Place, folder: str, given: _Given) -> _Job:
    """A new training of a model that has been trained before, on any pairs."""
    saved = load_translator(folder)
    before = recorded(DataOptions, saved.data)
    free = {name: given.data.pop(name) for name in pair_data.FREE if name in given.data}
    changed = {name: given.config.pop(name) for name in _FREE if name in given.config}
    # What makes the weights and the numbers of tokens what they are.
    refuse_changes({**given.data, **given.config}, (before, saved.model.config))
    elsewhere = {"validation": "", "validation_target": "", "stream": False}
    data = replace(before, **{**elsewhere, **free})
    options = replace(saved.options, **given.training)
    torch.manual_seed(options.seed)
    model = Translator(replace(saved.model.config, **changed))
    model.load_state_dict(saved.model.state_dict())
    parts = Parts.read(place._replace(seed=options.seed), data)
    return _job(parts, (saved.source, saved.target), model, options, data)


def _job(
    parts: Parts,
    codecs: tuple[Codec, Codec],
    model: Translator,
    options: Options,
    data: DataOptions,
) -> _Job:
    train, held = parts.encoded(codecs, data)
    trainer = TranslatorTraining(model, train, codecs[1].vocab.bos, options)
    return _Job(codecs, model, trainer, held, data, parts.held)


def _describe(job: _Job) -> str:
    """Lines on what a training is about to do."""
    model, options, pairs = job.model, job.trainer.options, job.trainer.pairs
    count, cut = "a stream", ""
    if isinstance(pairs, Pairs):
        eos = job.codecs[0].vocab.eos, job.codecs[1].vocab.eos
        long = sum(p.source[-1] != eos[0] or p.target[-1] != eos[1] for p in pairs.encoded)
        count, cut = f"{len(pairs):,}", f"; {long:,} are cut to {job.data.num_steps} tokens"
    held = len(job.held_out) if isinstance(job.held_out, Pairs) else 0
    config, limit = model.config, job.data.batch_tokens
    size = f"up to {limit:,} tokens a side" if limit else f"{options.batch_size} pairs"
    x = torch.zeros(1, options.batch_size, config.embedding_size)
    return "\n".join(
        (
            f"Pairs: {count} to train on, {held:,} held out{cut}; vocabularies of "
            f"{config.source_vocab_size:,} and {config.target_vocab_size:,}",
            f"Model: {config.cell}, {config.num_layers} x {config.hidden_size}, attention "
            f"{config.attention}, {sum(p.numel() for p in model.parameters()):,} parameters; "
            f"{options.steps:,} steps of {size}",
            f"Recurrence: {explain(model.encoder.rnn, x)}",
        )
    )
