# SPDX-License-Identifier: MIT
"""`fused-rnn translate train`: a translator from a file of sentence pairs."""

import argparse
from dataclasses import asdict, dataclass
from functools import partial
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
    load_translator,
    save_translator,
)
from ..seq2seq.parallel import launched, world
from ..text import (
    NORMALIZATIONS,
    RESERVED,
    SUBWORD,
    TOKENIZERS,
    Codec,
    Pair,
    PairData,
    Pairs,
    StreamedPairs,
    TextError,
    corpus,
    number_pairs,
    perplexity,
    read_pairs,
    split_pairs,
)
from . import job as jobs
from . import translations
from .curves import Course, draw_training
from .options import (
    TRAINING_HELP,
    add_fields,
    given_of,
    refuse_changes,
    refuse_occupied,
)

_NUMBERS, _CORPUS = "numbers", "fra-eng"
_NUMBER_PAIRS = 20_000


@dataclass(frozen=True, kw_only=True)
class _Data:
    """How sentences become tokens, and which are held out."""

    tokenizer: str = "word"
    normalization: str = "none"
    min_freq: int = 2
    subwords: int = 8000
    num_steps: int = 60
    held_out: float = 0.02
    validation: str = ""
    stream: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.held_out < 1:
            raise ValueError(f"held_out: expected between 0 and 1, got {self.held_out}")
        if self.num_steps < 1:
            raise ValueError(f"num_steps: expected at least 1, got {self.num_steps}")
        if self.stream and not self.validation:
            raise ValueError("--stream: expected --validation with it, as nothing is held out")


_CHOICES = {
    "tokenizer": (*TOKENIZERS, SUBWORD),
    "normalization": NORMALIZATIONS,
    "cell": CELLS,
    "attention": ("none", *ATTENTIONS),
    "attend": ATTENDS,
    "optimizer": OPTIMIZERS,
    "schedule": SCHEDULES,
    "precision": PRECISIONS,
}
_DATA_HELP = {
    "tokenizer": "what a token is",
    "normalization": "how sentences are simplified first",
    "min_freq": "tokens seen fewer times are <unk>",
    "subwords": "how many are learnt for each language, with --tokenizer subword",
    "num_steps": "longest sentence in tokens, <eos> included; longer ones are cut",
    "held_out": "part of the distinct source sentences that is not trained on",
    "validation": "file of pairs to hold out instead",
    "stream": "read the file in pieces, for what does not fit into memory",
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
}


class _Job(NamedTuple):
    """A training ready to run."""

    codecs: tuple[Codec, Codec]
    model: Translator
    trainer: TranslatorTraining
    held_out: PairData
    data: _Data


def add_commands(actions: Any) -> None:
    """Adds train, run and evaluate to the actions of `fused-rnn translate`."""
    parser = actions.add_parser("train", help="train on sentence pairs")
    parser.set_defaults(run=_train)
    parser.add_argument(
        "pairs",
        metavar="PAIRS",
        help=f"UTF-8 file, a pair a line: source, tab, target; or '{_CORPUS}', which is downloaded "
        f"once; or '{_NUMBERS}' for number words",
    )
    parser.add_argument("--out", metavar="DIR", required=True, help="folder of the checkpoint")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in DIR")
    parser.add_argument("--save-every", type=int, default=200, help="steps (default 200)")
    add_fields(parser, _Data, _DATA_HELP, _CHOICES)
    add_fields(parser, TranslatorConfig, _MODEL_HELP, _CHOICES)
    add_fields(parser, Options, TRAINING_HELP, _CHOICES)
    translations.add_commands(actions)


def _train(arguments: argparse.Namespace) -> int:
    with launched():
        return _train_here(arguments)


def _train_here(arguments: argparse.Namespace) -> int:
    folder = Path(arguments.out)
    data, config, training = (
        given_of(arguments, names) for names in (_DATA_HELP, _MODEL_HELP, TRAINING_HELP)
    )
    if arguments.save_every < 1:
        raise ValueError(f"--save-every: expected at least 1, got {arguments.save_every}")
    if arguments.resume:
        job = _resume(arguments.pairs, folder)
        holders = (job.data, job.model.config, job.trainer.options)
        refuse_changes({**data, **config, **training}, holders)
    else:
        refuse_occupied(folder)
        job = _start(arguments.pairs, _Data(**data), Options(**training), config)
    jobs.say(_describe(job))
    save = partial(save_translator, folder, *job.codecs, job.trainer, asdict(job.data))
    if not jobs.run_training(
        job.trainer, job.held_out, save, folder, save_every=arguments.save_every
    ):
        return 130
    last = min(loss for _, loss in job.trainer.validations[-(job.trainer.options.patience + 1) :])
    if world().main:
        course = Course(job.trainer.losses, job.trainer.validations, perplexity(last, 1))
        draw_training(folder / "curves.png", course)
    jobs.say(f"Held-out perplexity {perplexity(last, 1):.3f} a token")
    jobs.say(f"Checkpoint and curves.png are in {folder}")
    return 0


def _start(name: str, data: _Data, options: Options, config: dict[str, Any]) -> _Job:
    """A new training; its vocabularies are those of what it trains on."""
    train, held = _read(name, data, options.seed)
    learn = partial(
        Codec.learn,
        tokenizer=data.tokenizer,
        normalization=data.normalization,
        min_freq=data.min_freq,
        reserved=RESERVED,
        size=data.subwords,
    )
    codecs = (learn(_Side(train, 0)), learn(_Side(train, 1)))
    torch.manual_seed(options.seed)
    sizes = [len(codec.vocab) for codec in codecs]
    model = Translator(
        TranslatorConfig(source_vocab_size=sizes[0], target_vocab_size=sizes[1], **config)
    )
    parts = _encoded(train, held, codecs, data)
    trainer = TranslatorTraining(model, parts[0], codecs[1].vocab.bos, options)
    return _Job(codecs, model, trainer, parts[1], data)


def _resume(name: str, folder: Path) -> _Job:
    """The training whose checkpoint is in a folder, where it was."""
    saved = load_translator(folder)
    data, codecs = _Data(**saved.data), (saved.source, saved.target)
    train, held = _read(name, data, saved.options.seed)
    parts = _encoded(train, held, codecs, data)
    return _Job(codecs, saved.model, saved.resume(parts[0]), parts[1], data)


class _Side:
    """The sentences of one side, as often as they are asked for."""

    def __init__(self, pairs: list[Pair] | Path, side: int) -> None:
        self._pairs, self._side = pairs, side

    def __iter__(self) -> Any:
        pairs = read_pairs(self._pairs) if isinstance(self._pairs, Path) else self._pairs
        return (pair[self._side] for pair in pairs)


def _read(name: str, data: _Data, seed: int) -> tuple[list[Pair] | Path, list[Pair]]:
    """The pairs to train on, or the file that they are to be streamed from, and those held out."""
    held = list(read_pairs(data.validation)) if data.validation else []
    if name == _NUMBERS and not Path(name).exists():
        pairs = number_pairs(_NUMBER_PAIRS, seed=seed)
    else:
        path = corpus(name) if name == _CORPUS and not Path(name).exists() else Path(name)
        if data.stream:
            return path, held
        pairs = list(read_pairs(path))
    if held:
        return pairs, held
    sources = len({pair.source for pair in pairs})
    if sources < 2:
        raise TextError(f"{name}: too short, expected at least 2 distinct source sentences")
    return split_pairs(pairs, max(1, round(sources * data.held_out)), seed=seed)


def _encoded(
    train: list[Pair] | Path, held: list[Pair], codecs: tuple[Codec, Codec], data: _Data
) -> tuple[PairData, PairData]:
    cut = data.num_steps
    own: PairData = (
        StreamedPairs(train, *codecs, num_steps=cut, by_length=True)
        if isinstance(train, Path)
        else Pairs(train, *codecs, num_steps=cut, by_length=True)
    )
    return own, Pairs(held, *codecs, num_steps=cut, by_length=True)


def _describe(job: _Job) -> str:
    """Lines on what a training is about to do."""
    model, options, pairs = job.model, job.trainer.options, job.trainer.pairs
    count, cut = "a stream of", ""
    if isinstance(pairs, Pairs):
        eos = job.codecs[0].vocab.eos, job.codecs[1].vocab.eos
        long = sum(p.source[-1] != eos[0] or p.target[-1] != eos[1] for p in pairs.encoded)
        count, cut = f"{len(pairs):,}", f"; {long:,} are cut to {job.data.num_steps} tokens"
    held = len(job.held_out) if isinstance(job.held_out, Pairs) else 0
    config = model.config
    x = torch.zeros(1, options.batch_size, config.embedding_size)
    return "\n".join(
        (
            f"Pairs: {count} to train on, {held:,} held out{cut}; vocabularies of "
            f"{config.source_vocab_size:,} and {config.target_vocab_size:,}",
            f"Model: {config.cell}, {config.num_layers} x {config.hidden_size}, attention "
            f"{config.attention}, {sum(p.numel() for p in model.parameters()):,} parameters; "
            f"{options.steps:,} steps of {options.batch_size} pairs",
            f"Recurrence: {explain(model.encoder.rnn, x)}",
        )
    )
