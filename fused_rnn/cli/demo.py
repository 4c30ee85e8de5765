# SPDX-License-Identifier: MIT
"""`fused-rnn lm demo`: a language model trained in two minutes, and what there is to see of it."""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from ..seq2seq import TrainingOptions, evaluate, generate
from ..text import Codec, NgramModel, Vocab, perplexity, python_topics
from . import job as jobs
from .comparison import Comparison, compare
from .curves import Course, draw_demo
from .options import need

_CONFIG = {"cell": "gru", "hidden_size": 384, "embedding_size": 64, "dropout": 0.25}
_OPTIONS = TrainingOptions(batch_size=16, learning_rate=0.003, validate_every=250)
_ORDER = 5
_PREFIX = "The "
_TEMPERATURE = 0.7
# Beyond this the text is learnt by heart, however fast the machine.
_MOST_STEPS = 8000


def add_command(actions: Any) -> None:
    """Adds demo to the actions of `fused-rnn lm`."""
    parser = actions.add_parser("demo", help="train on Python's own help texts, and look")
    parser.set_defaults(run=_demo)
    parser.add_argument("--out", metavar="DIR", required=True, help="folder of what it writes")
    parser.add_argument(
        "--seconds", type=float, default=110, help="of training; comparing takes a third more"
    )


def _demo(arguments: argparse.Namespace) -> int:
    need("safetensors", "tqdm", "matplotlib")
    folder = Path(arguments.out)
    text = python_topics()
    options = replace(_OPTIONS, steps=_MOST_STEPS)
    print("Text: the help texts of this Python (pydoc_data.topics)")
    print("\nTraining steps with the fused layer and with torch.nn's in turn:", flush=True)
    trial = jobs.start("pydoc_data.topics", text, Codec(Vocab()), options, _CONFIG)
    model, tokens = trial.trainer.model, _tokens(trial)
    comparison = compare(model, tokens, options, seconds=arguments.seconds / 3)
    print(_compared(comparison))

    rate = comparison.fused.tokens_per_second.median
    steps = round(arguments.seconds * rate / options.tokens_per_step)
    options = replace(_OPTIONS, steps=min(max(steps, 100), _MOST_STEPS))
    job = jobs.start("pydoc_data.topics", text, Codec(Vocab()), options, _CONFIG)
    print(f"\n{jobs.describe(job)}", flush=True)
    if not jobs.run_job(job, folder):
        return 130
    baseline = f"{_ORDER}-gram, modified Kneser-Ney"
    model_perplexity = evaluate(job.trainer.model, job.held_out).perplexity
    ngram_perplexity = _ngram_perplexity(job)
    print(f"\nPerplexity on the held-out text ({len(job.held_out) - 1:,} characters predicted):")
    print(f"  {model_perplexity:6.3f}  {comparison.fused.name} language model")
    print(f"  {ngram_perplexity:6.3f}  {baseline}, from the same text")
    print(f"\nWritten by the model (temperature {_TEMPERATURE}):\n")
    print(_PREFIX + _written(job, 200))
    course = Course(job.trainer.losses, job.trainer.validations, model_perplexity)
    draw_demo(folder / "curves.png", comparison, course, (baseline, ngram_perplexity))
    print(f"\nThe curves are in {folder / 'curves.png'}, the checkpoint is {folder}. Go on with:")
    print(f"  python -m fused_rnn lm generate {folder} --prefix 'A class ' --length 500")
    return 0


def _tokens(job: jobs.Job) -> Tensor:
    # A text of this size is held in memory.
    return cast(Tensor, job.trainer.tokens)


def _compared(comparison: Comparison) -> str:
    lines = [
        f"  {contender.tokens_per_second.median:9,.0f} tokens/s  {contender.name}"
        for contender in (comparison.fused, comparison.torch)
    ]
    lines.append(
        f"  {comparison.ratio:.2f} times the speed; the losses of {len(comparison.fused.losses):,} "
        f"steps differ by at most {comparison.largest_difference:.1g}"
    )
    return "\n".join(lines)


def _ngram_perplexity(job: jobs.Job) -> float:
    baseline = NgramModel(_tokens(job).tolist(), len(job.codec.vocab), order=_ORDER)
    return perplexity(baseline.loss_sum(job.held_out.tolist()), len(job.held_out) - 1)


def _written(job: jobs.Job, length: int) -> str:
    numbers = generate(
        job.trainer.model,
        job.codec.encode(_PREFIX),
        length,
        temperature=_TEMPERATURE,
        generator=torch.Generator().manual_seed(0),
        ban=(job.codec.vocab.unknown,),
    )
    return job.codec.decode(numbers)
