# SPDX-License-Identifier: MIT
"""`fused-rnn translate run`: what a trained translator makes of sentences, as they come."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..seq2seq import SearchOptions, Translation, translate
from ..text import arriving_lines
from .curves import draw_attention
from .options import need
from .pictures import refuse_unwritable
from .searches import Loaded, add_search, as_json, loaded, need_attention, options_of

# More panels than this would be too small to read.
_MOST_PANELS = 6


def add_commands(actions: Any) -> None:
    """Adds run to the actions of `fused-rnn translate`."""
    parser = actions.add_parser(
        "run",
        help="translate standard input, a sentence a line",
        description="Translates standard input, a sentence a line, to standard output, as far as "
        "lines are there. A blank line gives a blank line. With --n-best above 1, each line is a "
        "translation's rank, score and text, with tabs between.",
    )
    parser.set_defaults(run=_translate)
    add_search(parser)
    parser.add_argument("--n-best", type=int, default=1, help="translations each (default 1)")
    parser.add_argument("--json", action="store_true", help="an object a line, with all figures")
    parser.add_argument(
        "--attention",
        metavar="PNG",
        help=f"picture of where the decoder looked, of up to {_MOST_PANELS} sentences",
    )


def _translate(arguments: argparse.Namespace) -> int:
    looks = arguments.attention is not None
    need("safetensors", *(("matplotlib",) if looks else ()))
    options = options_of(arguments, n_best=arguments.n_best, attention=looks)
    saved = loaded(arguments)
    if looks:
        need_attention("--attention", saved)
        refuse_unwritable(Path(arguments.attention))
    kept: list[Translation] = []
    for number, one in enumerate(_answers(saved, options, arguments.batch_size), 1):
        _warn(number, one)
        print(_shown(one, arguments), flush=True)
        if one.tokens and one.candidates and len(kept) < _MOST_PANELS:
            kept.append(one)
    if looks and kept:
        draw_attention(Path(arguments.attention), kept)
    return 0


def _answers(saved: Loaded, options: SearchOptions, batch_size: int) -> Iterator[Translation]:
    """The translations of standard input, of as many lines at a time as are there."""
    if options.replace_unknown:
        need_attention("--replace-unknown", saved)
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


def _shown(one: Translation, arguments: argparse.Namespace) -> str:
    if not arguments.json:
        return _as_text(one, arguments.n_best)
    candidates = [candidate._asdict() for candidate in one.candidates]
    return as_json({**one._asdict(), "candidates": candidates})


def _as_text(one: Translation, n_best: int) -> str:
    if not one.tokens:
        return ""
    if n_best == 1:
        return one.candidates[0].text if one.candidates else ""
    lines = (f"{i}\t{c.score:.4f}\t{c.text}" for i, c in enumerate(one.candidates, 1))
    return "\n".join(lines)
