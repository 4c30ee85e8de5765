# SPDX-License-Identifier: MIT
"""`fused-rnn lm`: train a language model on a text file, generate from it, evaluate it."""

import argparse
import sys
from pathlib import Path
from typing import Any

import torch

from ..seq2seq import (
    CELLS,
    OPTIMIZERS,
    PRECISIONS,
    SAMPLINGS,
    SCHEDULES,
    LanguageModelConfig,
    TrainingOptions,
    evaluate,
    generate,
    load_language_model,
)
from ..seq2seq.parallel import launched, world
from ..text import NORMALIZATIONS, TOKENIZERS, Codec, TextError, Vocab, read_text
from . import job as jobs
from .curves import Course, draw_training
from .options import (
    TRAINING_HELP,
    add_fields,
    add_option,
    given_of,
    refuse_changes,
    refuse_occupied,
)

_CHOICES = {
    "cell": CELLS,
    "sampling": SAMPLINGS,
    "optimizer": OPTIMIZERS,
    "schedule": SCHEDULES,
    "precision": PRECISIONS,
    "tokenizer": TOKENIZERS,
    "normalization": NORMALIZATIONS,
}
_CODEC_HELP = {
    "tokenizer": "what a token is",
    "normalization": "how the text is simplified first",
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
    parser.add_argument("file", metavar="FILE", help="UTF-8 text in any script")
    parser.add_argument("--out", metavar="DIR", required=True, help="folder of the checkpoint")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in DIR")
    parser.add_argument("--save-every", type=int, default=200, help="steps (default 200)")
    codec_defaults = Codec._field_defaults
    for name, text in _CODEC_HELP.items():
        add_option(parser, name, codec_defaults[name], text, _CHOICES[name])
    add_fields(parser, LanguageModelConfig, _MODEL_HELP, _CHOICES)
    add_fields(parser, TrainingOptions, _TRAINING_HELP, _CHOICES)

    parser = actions.add_parser("generate", help="let a trained model write")
    parser.set_defaults(run=_generate)
    parser.add_argument("model", metavar="DIR", help="folder of the checkpoint")
    parser.add_argument("--prefix", required=True, help="text to go on from")
    parser.add_argument("--length", type=int, default=200, help="tokens (default 200)")
    parser.add_argument(
        "--temperature", type=float, default=0.8, help="0 = always the likeliest (default 0.8)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the draws (default 0)")

    parser = actions.add_parser("evaluate", help="perplexity of a text file")
    parser.set_defaults(run=_evaluate)
    parser.add_argument("model", metavar="DIR", help="folder of the checkpoint")
    parser.add_argument("file", metavar="FILE", help="UTF-8 text")


def _train(arguments: argparse.Namespace) -> int:
    with launched():
        return _train_here(arguments)


def _train_here(arguments: argparse.Namespace) -> int:
    folder = Path(arguments.out)
    codec, config, training = (
        given_of(arguments, names) for names in (_CODEC_HELP, _MODEL_HELP, _TRAINING_HELP)
    )
    if arguments.save_every < 1:
        raise ValueError(f"--save-every: expected at least 1, got {arguments.save_every}")
    text = read_text(arguments.file)
    if arguments.resume:
        job = jobs.resume(arguments.file, text, folder)
        holders = (job.codec, job.trainer.model.config, job.trainer.options)
        refuse_changes({**codec, **config, **training}, holders)
    else:
        refuse_occupied(folder)
        options = TrainingOptions(**training)
        job = jobs.start(arguments.file, text, Codec(Vocab(), **codec), options, config)
    jobs.say(jobs.describe(job))
    if not jobs.run(job, folder, save_every=arguments.save_every):
        return 130
    result = evaluate(job.trainer.model, job.held_out)
    course = Course(job.trainer.losses, job.trainer.validations, result.perplexity)
    if world().main:
        draw_training(folder / "curves.png", course)
    jobs.say(f"Held-out perplexity {result.perplexity:.3f} over {result.predicted:,} tokens")
    jobs.say(f"Checkpoint and curves.png are in {folder}")
    return 0


def _generate(arguments: argparse.Namespace) -> int:
    model, codec, *_ = load_language_model(arguments.model)
    tokens = TOKENIZERS[codec.tokenizer].split(arguments.prefix)
    unknown = sorted({token for token in tokens if token not in codec.vocab})
    if unknown:
        print(f"Read as <unk>, not in the vocabulary: {unknown}", file=sys.stderr)
    written = generate(
        model,
        torch.tensor(codec.vocab.encode(tokens), dtype=torch.int64),
        arguments.length,
        temperature=arguments.temperature,
        generator=torch.Generator().manual_seed(arguments.seed),
        ban=(codec.vocab.unknown,),
    )
    print(TOKENIZERS[codec.tokenizer].join([*tokens, *codec.vocab.decode(written)]))
    return 0


def _evaluate(arguments: argparse.Namespace) -> int:
    model, codec, *_ = load_language_model(arguments.model)
    numbers = codec.encode(read_text(arguments.file))
    if len(numbers) < 2:
        raise TextError(f"{arguments.file}: expected at least 2 tokens, got {len(numbers)}")
    result = evaluate(model, numbers)
    unknown = int((numbers == codec.vocab.unknown).sum())
    print(
        f"Perplexity {result.perplexity:.3f} over {result.predicted:,} tokens; "
        f"{unknown:,} tokens of the text are outside the vocabulary and read as <unk>"
    )
    return 0
