# SPDX-License-Identifier: MIT
"""The shared parts of translate's commands: models they load, pairs they read, the search."""

from __future__ import annotations

import argparse
import json
import math
from typing import Any, NamedTuple

from ..seq2seq import (
    STOPS,
    CheckpointError,
    Draws,
    EncoderDecoder,
    Ensemble,
    SearchOptions,
    load_translator,
)
from ..seq2seq.search.hypotheses import NORMALIZATIONS
from ..text import Codec, Pair, read_pairs, read_parallel


def add_scores(parser: argparse.ArgumentParser) -> None:
    own = SearchOptions()
    parser.add_argument("model", metavar="DIR", help="folder of the checkpoint")
    parser.add_argument(
        "--with",
        dest="others",
        metavar="DIR",
        action="append",
        default=[],
        help="another model of the same vocabularies, whose probabilities are averaged with it",
    )
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


def add_search(parser: argparse.ArgumentParser) -> None:
    own = SearchOptions()
    add_scores(parser)
    parser.add_argument("--beam-size", type=int, default=own.beam_size, help="(default 5)")
    parser.add_argument(
        "--stop", choices=STOPS, default=own.stop, help="when a search ends (default exact)"
    )
    parser.add_argument(
        "--max-length",
        type=int,
        help="tokens (default: twice the source's, and ten); --stop exact takes longer the larger",
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


def add_pairs(parser: argparse.ArgumentParser) -> None:
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


def options_of(arguments: argparse.Namespace, **more: Any) -> SearchOptions:
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


class Loaded(NamedTuple):
    """The model that translates, one or several as one, and its codecs."""

    model: EncoderDecoder
    source: Codec
    target: Codec
    looks: bool


def loaded(arguments: argparse.Namespace) -> Loaded:
    """The models named.

    Raises:
        CheckpointError: there is no such checkpoint, or it is of other vocabularies.
    """
    saved = [load_translator(folder) for folder in (arguments.model, *arguments.others)]
    first = saved[0]
    for folder, other in zip(arguments.others, saved[1:], strict=True):
        for side in ("source", "target"):
            if getattr(other, side).record() != getattr(first, side).record():
                raise CheckpointError(
                    f"--with: expected the {side} vocabulary of {arguments.model}, got another in "
                    f"{folder}"
                )
    model = first.model if len(saved) == 1 else Ensemble([one.model for one in saved])
    looks = all(one.model.config.attention != "none" for one in saved)
    return Loaded(model, first.source, first.target, looks)


def need_attention(option: str, saved: Loaded) -> None:
    if not saved.looks:
        raise ValueError(f"{option}: expected a model with attention, got one without")


def pairs_of(arguments: argparse.Namespace) -> list[Pair]:
    """The pairs given: those of a file, or each source with each of its translations."""
    if not arguments.target:
        return list(read_pairs(arguments.pairs))
    return [pair for file in arguments.target for pair in read_parallel(arguments.pairs, file)]


def as_json(figures: dict[str, Any]) -> str:
    """Returns an object as JSON, which has no infinity and no NaN: null stands for them."""
    return json.dumps(_finite(figures), ensure_ascii=False, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    return [_finite(part) for part in value] if isinstance(value, list | tuple) else value
