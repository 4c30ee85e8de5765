# SPDX-License-Identifier: MIT
"""`fused-rnn translate evaluate` and `score`: how good a translator and translations are."""

from __future__ import annotations

import argparse
from statistics import fmean
from typing import Any

from ..seq2seq import corpus_scores, evaluate_translator, score_pairs, translate
from ..text import Pairs, bleu
from .options import need
from .pair_data import references_of
from .searches import add_pairs, add_scores, add_search, as_json, loaded, options_of, pairs_of


def add_commands(actions: Any) -> None:
    """Adds evaluate and score to the actions of `fused-rnn translate`."""
    parser = actions.add_parser("evaluate", help="perplexity and BLEU on sentence pairs")
    parser.set_defaults(run=_evaluate)
    add_search(parser)
    add_pairs(parser)
    parser.add_argument("--json", action="store_true", help="one object with all figures")
    parser = actions.add_parser(
        "score",
        help="how likely given translations are",
        description="Prints of each pair the score that a search gives such a translation, the "
        "sentence and the translation, with tabs between.",
    )
    parser.set_defaults(run=_score)
    add_scores(parser)
    add_pairs(parser)
    parser.add_argument("--json", action="store_true", help="an object a line, with all figures")


def _evaluate(arguments: argparse.Namespace) -> int:
    need("safetensors", "sacrebleu")
    options = options_of(arguments)
    saved = loaded(arguments)
    pairs = pairs_of(arguments)
    data = Pairs(pairs, saved.source, saved.target)
    result = evaluate_translator(saved.model, data, saved.target.vocab.bos)
    references = references_of(pairs, saved.target)
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
        print(as_json(figures))
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
    saved = loaded(arguments)
    codecs = (saved.source, saved.target)
    found = score_pairs(
        *(saved.model, *codecs, pairs_of(arguments)),
        length_penalty=arguments.length_penalty,
        normalization=arguments.normalization,
        batch_size=arguments.batch_size,
    )
    for one in found:
        if arguments.json:
            print(as_json(one._asdict()))
        else:
            print(f"{one.score:.4f}\t{one.source}\t{one.target}")
    return 0
