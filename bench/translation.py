# SPDX-License-Identifier: MIT
"""English to French at a size that means something, in about 40 minutes on two cores.

`python -m bench.translation` trains a bidirectional GRU with attention over subwords on all pairs
of the book's corpus but 5,000 distinct English sentences, held out with all their translations;
then translates those with beams of 1 and 5 and scores them with sacrebleu against all references.
Before that it trains the same start with torch.nn's layers in turn with the fused ones, for the
time to the same loss. It goes on from where it was interrupted.
"""

import argparse
import json
import os
import sys
import time
from copy import deepcopy
from dataclasses import asdict
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import torch

from bench import machine
from bench.book_models import twin
from fused_rnn.seq2seq import (
    Options,
    SearchOptions,
    Translator,
    TranslatorConfig,
    TranslatorTraining,
    corpus_scores,
    evaluate_translator,
    holds_checkpoint,
    load_translator,
    save_translator,
    train,
    translate,
)
from fused_rnn.text import RESERVED, Codec, Pair, Pairs, corpus, normalize, read_pairs, split_pairs

RESULTS = machine.ROOT / "bench" / "results" / "translation.jsonl"
_NORMALIZATION = "spaces"
_SUBWORDS = 6000
_VALIDATED = 1000
_SMOOTHED = 50
_ATTRIBUTION = "Sentences: www.manythings.org/anki and tatoeba.org, CC-BY 2.0 FR"


class _Run(NamedTuple):
    """A run ready to go on."""

    codecs: tuple[Codec, Codec]
    model: Translator
    trainer: TranslatorTraining
    validation: Pairs
    held_out: list[Pair]
    # What the checkpoint keeps besides: seconds trained, and the comparison.
    kept: dict[str, Any]


def main(arguments: list[str] | None = None) -> int:
    """Trains, compares, translates, scores, and appends a row to the results."""
    parser = argparse.ArgumentParser(prog="python -m bench.translation", description=__doc__)
    parser.add_argument("--work", type=Path, default=machine.ROOT / "build" / "translation")
    parser.add_argument("--out", type=Path, default=RESULTS, help="file of results")
    parser.add_argument("--steps", type=int, default=9000, help="minibatches (default 9000)")
    parser.add_argument("--held-out", type=int, default=5000, help="English sentences")
    parser.add_argument("--pairs", type=int, help="only so many of the corpus, at random")
    parser.add_argument("--hidden-size", type=int, default=256, help="(default 256)")
    parser.add_argument("--compare-steps", type=int, default=300, help="of each (default 300)")
    parser.add_argument("--threads", type=int, default=2, help="(default 2)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    print(_ATTRIBUTION)
    run = _prepare(options)
    if "comparison" not in run.kept:
        run.kept["comparison"] = _compare(run, options.compare_steps)
        _save(options.work, run)
    _finish_training(options.work, run)
    row = {
        "system": "translation eng-fra",
        "config": asdict(run.model.config),
        "options": asdict(run.trainer.options),
        "threads": options.threads,
        "train_pairs": len(run.trainer.pairs.encoded),  # type: ignore[attr-defined]
        "train_seconds": run.kept["seconds"],
        "validations": run.trainer.validations,
        "comparison": run.kept["comparison"],
        **_scored(run),
        **machine.record(),
    }
    with open(options.out, "a", encoding="utf-8") as file:
        file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return 0


def _prepare(options: argparse.Namespace) -> _Run:
    pairs = list(read_pairs(corpus("fra-eng", os.environ.get("FUSED_RNN_TEST_DATA"))))
    if options.pairs is not None:
        chosen = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(0))
        pairs = [pairs[i] for i in sorted(chosen[: options.pairs].tolist())]
    training, held_out = split_pairs(pairs, options.held_out)
    if holds_checkpoint(options.work):
        saved = load_translator(options.work)
        codecs, model = (saved.source, saved.target), saved.model
        trainer = saved.resume(_pairs(training, codecs))
        print(f"Going on after step {trainer.step:,}, from {options.work}")
        return _Run(codecs, model, trainer, _validation(held_out, codecs), held_out, saved.data)
    learn = partial(
        Codec.learn,
        tokenizer="subword",
        normalization=_NORMALIZATION,
        reserved=RESERVED,
        size=_SUBWORDS,
    )
    codecs = (learn([pair.source for pair in training]), learn([p.target for p in training]))
    torch.manual_seed(0)
    config = TranslatorConfig(
        source_vocab_size=len(codecs[0].vocab),
        target_vocab_size=len(codecs[1].vocab),
        hidden_size=options.hidden_size,
        embedding_size=options.hidden_size,
        attention="general",
        tied=True,
    )
    model = Translator(config)
    how = Options(
        steps=options.steps, batch_size=128, learning_rate=0.002, validate_every=500, seed=0
    )
    trainer = TranslatorTraining(model, _pairs(training, codecs), codecs[1].vocab.bos, how)
    validation = _validation(held_out, codecs)
    return _Run(codecs, model, trainer, validation, held_out, {"seconds": 0.0})


def _pairs(pairs: list[Pair], codecs: tuple[Codec, Codec]) -> Pairs:
    return Pairs(pairs, *codecs, num_steps=60, by_length=True)


def _validation(held_out: list[Pair], codecs: tuple[Codec, Codec]) -> Pairs:
    """Some of the held-out pairs, whose loss is watched; nothing is chosen by it."""
    return _pairs(held_out[:: max(1, len(held_out) // _VALIDATED)], codecs)


def _save(folder: Path, run: _Run) -> None:
    save_translator(folder, *run.codecs, run.trainer, run.kept)


def _finish_training(folder: Path, run: _Run) -> None:
    begun, before = time.perf_counter(), float(run.kept["seconds"])

    def save() -> None:
        run.kept["seconds"] = before + time.perf_counter() - begun
        _save(folder, run)

    if not run.trainer.finished:
        train(run.trainer, run.validation, save=save, save_every=250)


def _compare(run: _Run, steps: int) -> dict[str, Any]:
    """Seconds of training, of each, to the loss that both have reached at the end."""
    data, bos = run.trainer.pairs, run.trainer.bos
    own, other = deepcopy(run.model), twin(run.model)
    options = run.trainer.options
    trainers = [TranslatorTraining(model, data, bos, options) for model in (own, other)]
    clocks: list[list[float]] = [[0.0], [0.0]]
    with torch.random.fork_rng(devices=()):
        for step in range(steps):
            for index in (0, 1) if step % 2 == 0 else (1, 0):
                torch.manual_seed(step)
                begin = time.perf_counter()
                trainers[index].train_step()
                clocks[index].append(clocks[index][-1] + time.perf_counter() - begin)
    smooth = [_smoothed(trainer.losses) for trainer in trainers]
    loss = max(own[-1] for own in smooth)
    reached = [next(i for i, one in enumerate(own) if one <= loss) for own in smooth]
    seconds = [clock[i + 1] for clock, i in zip(clocks, reached, strict=True)]
    names = ("fused", "torch.nn")
    result = {
        "steps": steps,
        "loss": loss,
        "seconds_to_loss": dict(zip(names, seconds, strict=True)),
        "seconds_per_step": {n: c[-1] / steps for n, c in zip(names, clocks, strict=True)},
        "ratio": seconds[1] / seconds[0],
    }
    print(
        f"To a training loss of {loss:.3f}: fused {seconds[0]:.1f} s, torch.nn {seconds[1]:.1f} s, "
        f"{result['ratio']:.2f} times as fast"
    )
    return result


def _smoothed(losses: list[float]) -> list[float]:
    return [fmean(losses[max(0, i + 1 - _SMOOTHED) : i + 1]) for i in range(len(losses))]


def _scored(run: _Run) -> dict[str, Any]:
    """Perplexity of all that is held out, and sacrebleu's scores with beams of 1 and 5."""
    bos = run.codecs[1].vocab.bos
    held = evaluate_translator(run.model, _pairs(run.held_out, run.codecs), bos)
    references: dict[str, list[str]] = {}
    for source, target in run.held_out:
        references.setdefault(source, []).append(" ".join(normalize(target, _NORMALIZATION)))
    result: dict[str, Any] = {
        "held_out_perplexity": held.perplexity,
        "sentences": len(references),
        "references": len(run.held_out),
    }
    # Sentences of one length side by side, which spares padding and changes nothing else.
    order = sorted(references, key=len)
    for beam in (1, 5):
        begin = time.perf_counter()
        found = translate(run.model, *run.codecs, order, SearchOptions(beam_size=beam))
        texts = [one.candidates[0].text if one.candidates else "" for one in found]
        seconds = time.perf_counter() - begin
        scores = corpus_scores(texts, [references[source] for source in order])
        result[f"beam {beam}"] = {**scores, "seconds": seconds}
        print(
            f"Beam {beam}: BLEU {scores['bleu']:.2f}, chrF {scores['chrf']:.2f}, {seconds:.0f} s "
            f"for {len(order):,} sentences"
        )
    return result


if __name__ == "__main__":
    sys.exit(main())
