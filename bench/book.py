# SPDX-License-Identifier: MIT
"""The book's recurrent systems, fused beside torch.nn from the same weights.

`python -m bench.book` trains each system of *Dive into Deep Learning* (first edition's settings;
the decoder's context is kept, lengths are honoured) twice from one start, an epoch of one and an
epoch of the other in turn, and prints the book's figure, both of ours and the ratio of speeds.
Runs already in bench/results/book.jsonl are not repeated.
"""

import argparse
import json
import math
import os
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import fmean, quantiles
from typing import Any, NamedTuple

import torch

from bench import machine
from bench.book_models import bidirectional_language_model, language_model, translator, twin
from fused_rnn.seq2seq import (
    LanguageModel,
    Options,
    SearchOptions,
    Trainer,
    Training,
    TrainingOptions,
    TranslatorTraining,
    generate,
    translate,
)
from fused_rnn.text import (
    RESERVED,
    Codec,
    Pair,
    Pairs,
    TranslationBatch,
    bleu,
    corpus,
    read_pairs,
    read_text,
)

RESULTS = machine.ROOT / "bench" / "results" / "book.jsonl"
_TOKENS, _BATCH, _STEPS = 10_000, 32, 35
_PAIRS, _NMT_BATCH, _NMT_STEPS = 600, 64, 10
# What the book translates, and what it expects.
_SENTENCES = {
    "go .": "va !",
    "i lost .": "j'ai perdu .",
    "he's calm .": "il est calme .",
    "i'm home .": "je suis chez moi .",
}
_SCORED = 200


class System(NamedTuple):
    """A system of the book, and what it reports of it."""

    epochs: int
    rate: float
    # Perplexity, or for a translator the loss as the book prints it.
    figure: float
    tokens_per_second: float
    # Of a language model.
    build: Callable[[int], LanguageModel] | None = None
    written_out: bool = False
    sampling: str = "sequential"
    # Of a translator.
    attention: str = ""


def _layers(cell: str, hidden: int, layers: int = 1) -> Callable[[int], LanguageModel]:
    return lambda size: language_model(size, cell, hidden, layers, written_out=False)


def _written_out(cell: str, hidden: int) -> Callable[[int], LanguageModel]:
    return lambda size: language_model(size, cell, hidden, 1, written_out=True)


SYSTEMS = {
    "rnn-written-out": System(500, 1, 1.0, 67_212.6, _written_out("rnn_tanh", 512), True),
    "rnn-written-out-random": System(
        500, 1, 1.5, 65_222.3, _written_out("rnn_tanh", 512), True, "random"
    ),
    "rnn": System(500, 1, 1.3, 404_413.8, _layers("rnn_tanh", 256)),
    "gru-written-out": System(500, 1, 1.1, 19_911.5, _written_out("gru_reset_before", 256), True),
    "gru": System(500, 1, 1.0, 109_423.8, _layers("gru", 256)),
    "lstm-written-out": System(500, 1, 1.3, 17_736.0, _written_out("lstm", 256), True),
    "lstm": System(500, 1, 1.1, 234_815.0, _layers("lstm", 256)),
    "lstm-deep": System(500, 2, 1.0, 186_005.7, _layers("lstm", 256, 2)),
    "lstm-bidirectional": System(
        500, 1, 1.1, 131_129.2, lambda size: bidirectional_language_model(size, 256)
    ),
    "translation": System(300, 0.005, 0.019, 12_745.1, attention="none"),
    "translation-attention": System(250, 0.005, 0.021, 4_948.7, attention="additive"),
}


class BookTraining(TranslatorTraining):
    """The first edition's loss: the mean over all num_steps places, summed over the rows."""

    def _divisor(self, batch: TranslationBatch) -> float:
        return _NMT_STEPS


class _Task(NamedTuple):
    """Two trainings from one start, and how they are judged."""

    trainers: tuple[Training, Training]
    steps_per_epoch: int
    tokens_per_epoch: int
    figure: Callable[[Training], float]
    judge: Callable[[Training], dict[str, Any]]


def main(arguments: list[str] | None = None) -> int:
    """Runs the systems asked for and appends a row of each to the results."""
    parser = argparse.ArgumentParser(prog="python -m bench.book", description=__doc__)
    parser.add_argument("--filter", default="", help="regular expression of systems' names")
    parser.add_argument("--seeds", type=int, default=3, help="how many starts (default 3)")
    parser.add_argument("--epochs", type=int, help="instead of the book's")
    parser.add_argument("--threads", type=int, default=1, help="(default 1)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="file of results")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    chosen = [name for name in SYSTEMS if re.search(options.filter, name)]
    done = {_key(row): row for row in _rows(options.out)}
    print(_line("system", "seed", "book", "fused", "torch", "tokens/s", "torch", "ratio"))
    for name in chosen:
        for seed in range(options.seeds):
            epochs = options.epochs or SYSTEMS[name].epochs
            row = done.get((name, seed, epochs, options.threads))
            if row is None:
                row = one_training(name, seed, epochs, options.threads)
                _append(options.out, row)
            _show(row)
    return 0


def one_training(name: str, seed: int, epochs: int, threads: int) -> dict[str, Any]:
    """Returns what came of one system from one start."""
    system = SYSTEMS[name]
    torch.manual_seed(seed)
    task = (_language_task if system.build else _translation_task)(system, seed, epochs)
    seconds: tuple[list[float], list[float]] = ([], [])
    for epoch in range(epochs):
        # Whoever goes first may find the caches cold: in turn.
        for index in (0, 1) if epoch % 2 == 0 else (1, 0):
            torch.manual_seed(seed * 1_000_003 + epoch)
            begin = time.perf_counter()
            for _ in range(task.steps_per_epoch):
                task.trainers[index].train_step()
            seconds[index].append(time.perf_counter() - begin)
    rates = [_spread([task.tokens_per_epoch / second for second in own]) for own in seconds]
    row: dict[str, Any] = {
        "system": name,
        "seed": seed,
        "epochs": epochs,
        "threads": threads,
        "metric": "perplexity" if system.build else "loss as the book prints it",
        "book": {"figure": system.figure, "tokens_per_second": system.tokens_per_second},
        "ratio": rates[0]["p50"] / rates[1]["p50"],
    }
    for index, contender in enumerate(("fused", "torch.nn")):
        trainer = task.trainers[index]
        row[contender] = {
            "figure": task.figure(trainer),
            "tokens_per_second": rates[index],
            **task.judge(trainer),
        }
    return {**row, **machine.record()}


def _data(name: str) -> Path:
    return corpus(name, os.environ.get("FUSED_RNN_TEST_DATA"))


def _language_task(system: System, seed: int, epochs: int) -> _Task:
    codec_text = read_text(_data("time-machine"))
    codec = Codec.of(codec_text, normalization="book1")
    tokens = codec.encode(codec_text)[:_TOKENS]
    if system.build is None:
        raise ValueError("system: expected one of a language model, got a translator")
    model = system.build(len(codec.vocab))
    # The offset drawn makes no difference to the number of minibatches.
    steps = (_TOKENS - _STEPS - 1) // _BATCH // _STEPS
    options = TrainingOptions(
        steps=epochs * steps,
        batch_size=_BATCH,
        num_steps=_STEPS,
        sampling=system.sampling,
        optimizer="sgd",
        learning_rate=system.rate,
        schedule="constant",
        seed=seed,
    )
    other = twin(model, written_out=system.written_out)

    def judge(trainer: Training) -> dict[str, Any]:
        prefix = codec.encode("time traveller")
        own = trainer._module
        if not isinstance(own, LanguageModel) or "bidirectional" in str(own.rnn):
            return {}
        written = generate(own, prefix, 50, temperature=0)
        return {"text": "time traveller" + codec.decode(written)}

    return _Task(
        (Trainer(model, tokens, options), Trainer(other, tokens, options)),
        steps,
        steps * _BATCH * _STEPS,
        lambda trainer: math.exp(fmean(trainer.losses[-steps:])),
        judge,
    )


def _translation_task(system: System, seed: int, epochs: int) -> _Task:
    pairs = [pair for pair, _ in zip(read_pairs(_data("fra-eng")), range(_PAIRS), strict=False)]
    source, target = (
        Codec.learn(
            side,
            tokenizer="space",
            normalization="book-pairs",
            min_freq=2,
            reserved=RESERVED,
        )
        for side in zip(*pairs, strict=True)
    )
    data = Pairs(pairs, source, target, num_steps=_NMT_STEPS)
    model = translator(len(source.vocab), len(target.vocab), system.attention)
    steps = -(-len(pairs) // _NMT_BATCH)
    options = Options(
        steps=epochs * steps,
        batch_size=_NMT_BATCH,
        learning_rate=system.rate,
        schedule="constant",
        seed=seed,
    )
    count = sum(len(pair.target) for pair in data.encoded)
    bos = target.vocab.bos

    def judge(trainer: Training) -> dict[str, Any]:
        return _judged(trainer._module, source, target, pairs)

    return _Task(
        (
            BookTraining(model, data, bos, options),
            BookTraining(twin(model), data, bos, options),
        ),
        steps,
        count,
        lambda trainer: sum(trainer.losses[-steps:]) / count,
        judge,
    )


def _judged(model: Any, source: Codec, target: Codec, pairs: list[Pair]) -> dict[str, Any]:
    """The book's four sentences, and its BLEU of the first training pairs."""
    result: dict[str, Any] = {}
    for beam in (1, 2):
        options = SearchOptions(beam_size=beam, longest=_NMT_STEPS)

        def search(sentences: list[str], options: SearchOptions = options) -> list[str]:
            found = translate(model, source, target, sentences, options)
            return [one.candidates[0].text for one in found]

        texts = search(list(_SENTENCES))
        scored = search([pair.source for pair in pairs[:_SCORED]])
        labels = [" ".join(target.split(pair.target)) for pair in pairs[:_SCORED]]
        result[f"beam {beam}"] = {
            "sentences": {
                sentence: {"text": text, "bleu": bleu(text, _SENTENCES[sentence])}
                for sentence, text in zip(_SENTENCES, texts, strict=True)
            },
            "bleu": fmean(bleu(text, label) for text, label in zip(scored, labels, strict=True)),
        }
    return result


def _spread(values: list[float]) -> dict[str, float]:
    if len(values) == 1:
        values = values * 2
    cuts = quantiles(values, n=10, method="inclusive")
    return {"p20": cuts[1], "p50": cuts[4], "p80": cuts[7]}


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["system"], row["seed"], row["epochs"], row["threads"]


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _append(path: Path, row: dict[str, Any]) -> None:
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(row, ensure_ascii=False) + "\n")


def _line(*cells: str) -> str:
    return f"{cells[0]:<24}" + "".join(f"{cell:>11}" for cell in cells[1:])


def _show(row: dict[str, Any]) -> None:
    fused, other = row["fused"], row["torch.nn"]
    rates = (contender["tokens_per_second"]["p50"] for contender in (fused, other))
    digits = 3 if row["metric"] == "perplexity" else 4
    print(
        _line(
            row["system"],
            str(row["seed"]),
            f"{row['book']['figure']:g}",
            f"{fused['figure']:.{digits}f}",
            f"{other['figure']:.{digits}f}",
            *(f"{rate:,.0f}" for rate in rates),
            f"{row['ratio']:.2f}",
        ),
        flush=True,
    )
    for beam in ("beam 1", "beam 2"):
        if beam in fused:
            own = fused[beam]
            said = "; ".join(
                f"{sentence} => {one['text']} {one['bleu']:.3f}"
                for sentence, one in own["sentences"].items()
            )
            print(f"  {beam}: mean BLEU {own['bleu']:.3f}; {said}")
    if "text" in fused:
        print(f"  {fused['text']}")


if __name__ == "__main__":
    sys.exit(main())
