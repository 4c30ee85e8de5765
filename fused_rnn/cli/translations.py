# SPDX-License-Identifier: MIT
"""`fused-rnn translate run` and `evaluate`: what a trained translator makes of sentences."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

from ..seq2seq import (
    SavedTranslator,
    SearchOptions,
    Translation,
    corpus_scores,
    evaluate_translator,
    load_translator,
    translate,
)
from ..text import Pairs, TextError, bleu, normalize, read_pairs
from .curves import draw_attention

# More panels than this would be too small to read.
_MOST_PANELS = 6


def add_commands(actions: Any) -> None:
    """Adds run and evaluate to the actions of `fused-rnn translate`."""
    parser = actions.add_parser(
        "run",
        help="translate standard input, a sentence a line",
        description="Translates standard input, a sentence a line, to standard output. A blank "
        "line gives a blank line. With --n-best above 1, each line is a translation's rank, score "
        "and text, with tabs between.",
    )
    parser.set_defaults(run=_run)
    _add_search(parser)
    parser.add_argument("--n-best", type=int, default=1, help="translations each (default 1)")
    parser.add_argument("--json", action="store_true", help="an object a line, with all figures")
    parser.add_argument(
        "--attention",
        metavar="PNG",
        help=f"picture of where the decoder looked, of up to {_MOST_PANELS} sentences",
    )
    parser = actions.add_parser("evaluate", help="perplexity and BLEU on sentence pairs")
    parser.set_defaults(run=_evaluate)
    _add_search(parser)
    parser.add_argument("pairs", metavar="PAIRS", help="UTF-8 file, as for train")
    parser.add_argument("--json", action="store_true", help="one object with all figures")


def _add_search(parser: argparse.ArgumentParser) -> None:
    defaults = SearchOptions()
    parser.add_argument("model", metavar="DIR", help="folder of the checkpoint")
    parser.add_argument("--beam-size", type=int, default=defaults.beam_size, help="(default 5)")
    parser.add_argument(
        "--length-penalty", type=float, default=defaults.length_penalty, help="(default 0.75)"
    )
    parser.add_argument(
        "--max-length", type=int, help="tokens (default: twice the source's, and ten)"
    )
    parser.add_argument("--batch-size", type=int, default=32, help="sentences (default 32)")


def _options(arguments: argparse.Namespace, **more: Any) -> SearchOptions:
    if arguments.batch_size < 1:
        raise ValueError(f"--batch-size: expected at least 1, got {arguments.batch_size}")
    return SearchOptions(
        beam_size=arguments.beam_size,
        length_penalty=arguments.length_penalty,
        longest=arguments.max_length,
        **more,
    )


def _run(arguments: argparse.Namespace) -> int:
    looks = arguments.attention is not None
    options = _options(arguments, n_best=arguments.n_best, attention=looks)
    saved = load_translator(arguments.model)
    if looks and saved.model.config.attention == "none":
        raise ValueError("--attention: expected a model with attention, got one without")
    kept: list[Translation] = []
    found = _translated(saved, _standard_input(), options, arguments.batch_size)
    for number, one in enumerate(found, 1):
        _warn(number, one)
        print(_as_json(one) if arguments.json else _as_text(one, arguments.n_best), flush=True)
        if looks and one.tokens and len(kept) < _MOST_PANELS:
            kept.append(one)
    if looks and kept:
        draw_attention(Path(arguments.attention), kept)
    return 0


def _translated(
    saved: SavedTranslator, sentences: Iterable[str], options: SearchOptions, batch_size: int
) -> Iterator[Translation]:
    return translate(
        saved.model, saved.source, saved.target, sentences, options, batch_size=batch_size
    )


def _standard_input() -> Iterator[str]:
    for number, line in enumerate(sys.stdin.buffer, 1):
        try:
            sentence = line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise TextError(
                f"standard input, line {number}: expected UTF-8 text ({error.reason})"
            ) from None
        yield "" if not sentence.strip() else sentence.rstrip("\r\n")


def _warn(number: int, one: Translation) -> None:
    if one.unknown:
        print(
            f"line {number}: {one.unknown} of {len(one.tokens)} tokens are not in the vocabulary "
            "and read as <unk>",
            file=sys.stderr,
        )
    if not one.candidates:
        print(f"line {number}: no translation was found", file=sys.stderr)
    elif not one.candidates[0].finished:
        length = len(one.candidates[0].tokens)
        print(f"line {number}: the translation was cut at {length} tokens", file=sys.stderr)


def _as_text(one: Translation, n_best: int) -> str:
    if n_best == 1:
        return one.candidates[0].text if one.candidates else ""
    lines = (f"{i}\t{c.score:.4f}\t{c.text}" for i, c in enumerate(one.candidates, 1))
    return "\n".join(lines)


def _as_json(one: Translation) -> str:
    candidates = [candidate._asdict() for candidate in one.candidates]
    return json.dumps({**one._asdict(), "candidates": candidates}, ensure_ascii=False)


def _evaluate(arguments: argparse.Namespace) -> int:
    options = _options(arguments)
    saved = load_translator(arguments.model)
    pairs = list(read_pairs(arguments.pairs))
    data = Pairs(pairs, saved.source, saved.target)
    result = evaluate_translator(saved.model, data, saved.target.vocab.bos)
    references: dict[str, list[str]] = {}
    for source, target in pairs:
        references.setdefault(source, []).append(
            " ".join(normalize(target, saved.target.normalization))
        )
    found = {
        one.source: one.candidates[0].text if one.candidates else ""
        for one in _translated(saved, references, options, arguments.batch_size)
    }
    split = saved.target.split
    figures = {
        "perplexity": result.perplexity,
        "tokens": result.predicted,
        "pairs": len(pairs),
        "sentences": len(references),
        "book_bleu": fmean(bleu(split(found[s]), split(t)) for s, t in pairs),
        **corpus_scores([found[s] for s in references], list(references.values())),
    }
    if arguments.json:
        print(json.dumps(figures))
        return 0
    print(f"Perplexity {figures['perplexity']:.3f} over {result.predicted:,} tokens")
    print(f"The book's BLEU {figures['book_bleu']:.3f}, mean of {len(pairs):,} pairs")
    print(
        f"sacrebleu: BLEU {figures['bleu']:.2f}, chrF {figures['chrf']:.2f}, of "
        f"{len(references):,} sentences with {len(pairs):,} references, normalised as the model's"
    )
    return 0
