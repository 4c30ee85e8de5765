# SPDX-License-Identifier: MIT
"""`fused-rnn lm generate`: text that a trained model writes, shown as it is written."""

import argparse
import sys
from typing import Any

import torch

from ..seq2seq import generate, load_language_model
from ..text import Codec
from .options import need


def add_command(actions: Any) -> None:
    """Adds generate to the actions of `fused-rnn lm`."""
    parser = actions.add_parser("generate", help="let a trained model write")
    parser.set_defaults(run=_generate)
    parser.add_argument("model", metavar="DIR", help="folder of the checkpoint")
    parser.add_argument("--prefix", required=True, help="text to go on from")
    parser.add_argument("--length", type=int, default=200, help="most tokens (default 200)")
    parser.add_argument(
        "--temperature", type=float, default=0.8, help="0 = always the likeliest (default 0.8)"
    )
    parser.add_argument(
        "--top-k", type=int, default=0, help="draw from so many of the likeliest only (0 = all)"
    )
    parser.add_argument(
        "--top-p",
        type=float,
        default=1.0,
        help="draw from the fewest likeliest that have this probability together (default 1)",
    )
    parser.add_argument("--samples", type=int, default=1, help="texts (default 1)")
    parser.add_argument(
        "--stop", metavar="TEXT", default="", help="end where the model has written this"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the draws (default 0)")


def _generate(arguments: argparse.Namespace) -> int:
    need("safetensors")
    if arguments.samples < 1:
        raise ValueError(f"--samples: expected at least 1, got {arguments.samples}")
    saved = load_language_model(arguments.model)
    codec = saved.codec
    tokens = codec.split(arguments.prefix)
    if unknown := sorted(set(codec.vocab.unread(tokens))):
        print(f"Read as <unk>, not in the vocabulary: {unknown}", file=sys.stderr)
    generator = torch.Generator().manual_seed(arguments.seed)
    for number in range(1, arguments.samples + 1):
        if arguments.samples > 1:
            print(f"--- {number} ---")
        page = _Page(codec, codec.opening(tokens), arguments.stop)
        try:
            generate(
                saved.model,
                torch.tensor(codec.vocab.encode(tokens), dtype=torch.int64),
                arguments.length,
                temperature=arguments.temperature,
                top_k=arguments.top_k,
                top_p=arguments.top_p,
                generator=generator,
                ban=(codec.vocab.unknown,),
                watch=page.add,
            )
        except KeyboardInterrupt:
            # What there is stays.
            page.end()
            raise
        page.end()
    return 0


class _Page:
    """A text that is printed as it grows.

    Args:
        codec: of the model.
        opening: what stands before the first token.
        stop: ends the text, and is not printed. "": nothing does.
    """

    def __init__(self, codec: Codec, opening: str, stop: str) -> None:
        self._codec, self._stop = codec, stop
        # Not printed yet: the opening waits for the first token, as an error may come instead;
        # what may be the beginning of the stop waits for the rest of it.
        self._opening, self._held = opening, ""

    def add(self, number: int) -> bool:
        """Prints what one more token adds; returns whether that ends the text."""
        self._held += self._codec.piece(number)
        place = self._held.find(self._stop) if self._stop else -1
        ended = place >= 0
        if not ended:
            place = len(self._held) - self._may_begin()
        self._print(self._held[:place])
        self._held = "" if ended else self._held[place:]
        return ended

    def end(self) -> None:
        """Prints what has been held back, and the end of the line."""
        self._print(self._held + "\n")
        self._held = ""

    def _may_begin(self) -> int:
        """The number of last characters held that may be the beginning of the stop."""
        most = min(len(self._stop) - 1, len(self._held))
        lengths = range(most, 0, -1)
        return next((n for n in lengths if self._stop.startswith(self._held[-n:])), 0)

    def _print(self, text: str) -> None:
        print(self._opening + text, end="", flush=True)
        self._opening = ""
