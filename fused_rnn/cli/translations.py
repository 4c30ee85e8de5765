# SPDX-License-Identifier: MIT
"""`fused-rnn translate run`, `evaluate` and `score`: what a translator makes of sentences."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

from ..seq2seq import (
    STOPS,
    Draws,
    SavedTranslator,
    SearchOptions,
    Translation,
    corpus_scores,
    evaluate_translator,
    load_translator,
    score_pairs,
    translate,
)
from ..seq2seq.hypotheses import NORMALIZATIONS
from ..text import Pair, Pairs, arriving_lines, bleu, normalize, read_pairs, read_parallel
from .curves import draw_attention
from .options import need
from .pictures import refuse_unwritable

# More panels than this would be too small to read.
_MOST_PANELS = 6


def add_commands(actions: Any) -> None:
    """Adds run, evaluate and score to the actions of `fused-rnn translate`."""
    parser = actions.add_parser(
        "run",
        help="translate standard input, a sentence a line",
        description="Translates standard input, a sentence a line, to standard output, as far as "
        "lines are there. A blank line gives a blank line. With --n-best above 1, each line is a "
        "translation's rank, score and text, with tabs between.",
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
    _add_pairs(parser)
    parser.add_argument("--json", action="store_true", help="one object with all figures")
    parser = actions.add_parser(
        "score",
        help="how likely given translations are",
        description="Prints of each pair the score that a search gives such a translation, the "
        "sentence and the translation, with tabs between.",
    )
    parser.set_defaults(run=_score)
    _add_scores(parser)
    _add_pairs(parser)
    parser.add_argument("--json", action="store_true", help="an object a line, with all figures")


def _add_pairs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "pairs", metavar="PAIRS", help="UTF-8 file, as for train; with --target, of the sources"
    )
    parser.add_argument(
        "--target",
        metavar="FILE",
        action="append",
        default=[],
        help="file of translations, a sentence a line; each time another of each sentence",
    )


def _add_scores(parser: argparse.ArgumentParser) -> None:
    own = SearchOptions()
    parser.add_argument("model", metavar="DIR", help="folder of the checkpoint")
    parser.add_argument(
        "--length-penalty", type=float, default=own.length_penalty, help="(default 0.75)"
    )
    parser.add_argument(
        "--normalization",
        choices=tuple(NORMALIZATIONS),
        default=own.normalization,
        help="what a log-probability is divided by (default length)",
    )
    parser.add_argument("--batch-size", type=int, default=32, help="sentences (default 32)")


def _add_search(parser: argparse.ArgumentParser) -> None:
    own = SearchOptions()
    _add_scores(parser)
    parser.add_argument("--beam-size", type=int, default=own.beam_size, help="(default 5)")
    parser.add_argument(
        "--stop", choices=STOPS, default=own.stop, help="when a search ends (default exact)"
    )
    parser.add_argument(
        "--max-length", type=int, help="tokens (default: twice the source's, and ten)"
    )
    parser.add_argument("--min-length", type=int, default=0, help="tokens, <eos> counted")
    parser.add_argument(
        "--no-repeat-ngram", metavar="N", type=int, default=0, help="no N tokens come twice"
    )
    parser.add_argument("--prefix", default="", help="what every translation begins with")
    parser.add_argument(
        "--ban", metavar="TOKEN", action="append", default=[], help="never generated; repeatable"
    )
    parser.add_argument(
        "--replace-unknown",
        action="store_true",
        help="where the translation would have an unknown word, copy the source's looked at most",
    )
    parser.add_argument("--sample", action="store_true", help="draw translations at random")
    for name, kind, text in (
        ("temperature", float, "with --sample: 0 = always the likeliest (default 1)"),
        ("top-k", int, "with --sample: of so many of the likeliest tokens (default 0 = all)"),
        ("top-p", float, "with --sample: of the likeliest of this probability (default 1)"),
        ("seed", int, "with --sample: of the draws (default 0)"),
    ):
        parser.add_argument(f"--{name}", type=kind, help=text)


def _options(arguments: argparse.Namespace, **more: Any) -> SearchOptions:
    if arguments.batch_size < 1:
        raise ValueError(f"--batch-size: expected at least 1, got {arguments.batch_size}")
    names = ["beam_size", "length_penalty", "normalization", "stop", "min_length"]
    names += ["no_repeat_ngram", "prefix", "replace_unknown"]
    given = {name: getattr(arguments, name) for name in names}
    return SearchOptions(
        **given,
        longest=arguments.max_length,
        ban=tuple(arguments.ban),
        draws=_draws(arguments),
        **more,
    )


def _draws(arguments: argparse.Namespace) -> Draws | None:
    named = {name: getattr(arguments, name) for name in Draws._fields}
    given = {name: value for name, value in named.items() if value is not None}
    if arguments.sample:
        return Draws(**given)
    for name in given:
        raise ValueError(f"--{name.replace('_', '-')}: expected --sample with it")
    return None


def _run(arguments: argparse.Namespace) -> int:
    looks = arguments.attention is not None
    need("safetensors", *(("matplotlib",) if looks else ()))
    options = _options(arguments, n_best=arguments.n_best, attention=looks)
    saved = load_translator(arguments.model)
    if looks:
        _need_attention("--attention", saved)
        refuse_unwritable(Path(arguments.attention))
    kept: list[Translation] = []
    for number, one in enumerate(_answers(saved, options, arguments.batch_size), 1):
        _warn(number, one)
        print(_as_json(one) if arguments.json else _as_text(one, arguments.n_best), flush=True)
        if one.tokens and one.candidates and len(kept) < _MOST_PANELS:
            kept.append(one)
    if looks and kept:
        draw_attention(Path(arguments.attention), kept)
    return 0


def _need_attention(option: str, saved: SavedTranslator) -> None:
    if saved.model.config.attention == "none":
        raise ValueError(f"{option}: expected a model with attention, got one without")


def _answers(
    saved: SavedTranslator, options: SearchOptions, batch_size: int
) -> Iterator[Translation]:
    """The translations of standard input, of as many lines at a time as are there."""
    if options.replace_unknown:
        _need_attention("--replace-unknown", saved)
    first = 0
    for lines in arriving_lines(sys.stdin.buffer, "standard input"):
        sentences = ["" if not line.strip() else line for line in lines]
        yield from translate(
            *(saved.model, saved.source, saved.target, sentences, options),
            batch_size=batch_size,
            first=first,
        )
        first += len(lines)


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
    if not one.tokens:
        return ""
    if n_best == 1:
        return one.candidates[0].text if one.candidates else ""
    lines = (f"{i}\t{c.score:.4f}\t{c.text}" for i, c in enumerate(one.candidates, 1))
    return "\n".join(lines)


def _as_json(one: Translation) -> str:
    candidates = [candidate._asdict() for candidate in one.candidates]
    return json.dumps({**one._asdict(), "candidates": candidates}, ensure_ascii=False)


def _evaluate(arguments: argparse.Namespace) -> int:
    need("safetensors", "sacrebleu")
    options = _options(arguments)
    saved = load_translator(arguments.model)
    pairs = _pairs(arguments)
    data = Pairs(pairs, saved.source, saved.target)
    result = evaluate_translator(saved.model, data, saved.target.vocab.bos)
    references: dict[str, list[str]] = {}
    for source, target in pairs:
        references.setdefault(source, []).append(
            " ".join(normalize(target, saved.target.normalization))
        )
    codecs = (saved.source, saved.target)
    translated = translate(
        saved.model, *codecs, references, options, batch_size=arguments.batch_size
    )
    found = {one.source: one.candidates[0].text if one.candidates else "" for one in translated}
    split = saved.target.split
    figures: dict[str, Any] = {
        "perplexity": result.perplexity,
        "tokens": result.predicted,
        "unknown": [
            sum(len(codec.vocab.unread(codec.split(pair[side]))) for pair in pairs)
            for side, codec in enumerate(codecs)
        ],
        "pairs": len(pairs),
        "sentences": len(references),
        "book_bleu": fmean(bleu(split(found[s]), split(t)) for s, t in pairs),
        **corpus_scores([found[s] for s in references], list(references.values())),
    }
    if arguments.json:
        print(json.dumps(figures))
        return 0
    unknown = "{:,} source and {:,} target tokens".format(*figures["unknown"])
    print(
        f"Perplexity {figures['perplexity']:.3f} over {result.predicted:,} tokens; {unknown} are "
        "outside the vocabularies and read as <unk>"
    )
    print(f"The book's BLEU {figures['book_bleu']:.3f}, mean of {len(pairs):,} pairs")
    print(
        f"sacrebleu: BLEU {figures['bleu']:.2f}, chrF {figures['chrf']:.2f}, of "
        f"{len(references):,} sentences with {len(pairs):,} references, normalised as the model's"
    )
    return 0


def _score(arguments: argparse.Namespace) -> int:
    need("safetensors")
    saved = load_translator(arguments.model)
    codecs = (saved.source, saved.target)
    found = score_pairs(
        *(saved.model, *codecs, _pairs(arguments)),
        length_penalty=arguments.length_penalty,
        normalization=arguments.normalization,
        batch_size=arguments.batch_size,
    )
    for one in found:
        if arguments.json:
            print(json.dumps(one._asdict(), ensure_ascii=False))
        else:
            print(f"{one.score:.4f}\t{one.source}\t{one.target}")
    return 0


def _pairs(arguments: argparse.Namespace) -> list[Pair]:
    """The pairs given: those of a file, or each source with each of its translations."""
    if not arguments.target:
        return list(read_pairs(arguments.pairs))
    return [pair for file in arguments.target for pair in read_parallel(arguments.pairs, file)]
