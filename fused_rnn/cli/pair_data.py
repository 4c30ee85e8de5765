# SPDX-License-Identifier: MIT
"""The pairs of a translator's training: where they come from, and how they become tokens."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from ..text import (
    RESERVED,
    SUBWORD,
    Codec,
    Pair,
    PairData,
    Pairs,
    StreamedPairs,
    TextError,
    corpus,
    normalize,
    number_pairs,
    read_pairs,
    read_parallel,
    split_pairs,
)
from ..text.reading import refuse_pipe
from .options import need, read_held_out

NUMBERS, CORPUS = "numbers", "fra-eng"
_NUMBER_PAIRS = 20_000
HELP = {
    "tokenizer": "what a token is",
    "normalization": "how sentences are simplified first",
    "min_freq": "tokens seen fewer times are <unk>",
    "subwords": "how many are learnt of a vocabulary, with --tokenizer subword",
    "shared_vocabulary": "one vocabulary for both languages, learnt from both",
    "batch_tokens": "most tokens of a side of a minibatch, in place of --batch-size; 0 = any",
    "num_steps": "longest sentence in tokens, <eos> included; longer ones are cut",
    "held_out": "part of the distinct source sentences that is not trained on",
    "validation": "file of pairs to hold out instead",
    "validation_target": "file of their targets, --validation being that of their sources",
    "stop_on": "what says which look at what is held out is the best, for --patience",
    "stream": "read the file in pieces, for what does not fit into memory",
}
# Paths, which may differ from those that a checkpoint was made with: what is there may not.
PATHS = ("validation", "validation_target")
# What does not change what numbers mean, and so may differ where another training goes on.
FREE = ("batch_tokens", "num_steps", "held_out", "stop_on", "stream", *PATHS)
STOPS_ON = ("loss", "bleu")


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """The options by which sentences become tokens, and some are held out."""

    tokenizer: str = "word"
    normalization: str = "none"
    min_freq: int = 2
    subwords: int = 8000
    shared_vocabulary: bool = False
    batch_tokens: int = 0
    num_steps: int = 60
    held_out: float = 0.02
    validation: str = ""
    validation_target: str = ""
    stop_on: str = "loss"
    stream: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.held_out < 1:
            raise ValueError(f"held_out: expected between 0 and 1, got {self.held_out}")
        if self.stop_on not in STOPS_ON:
            raise ValueError(f"stop_on: expected one of {STOPS_ON}, got {self.stop_on!r}")
        if self.num_steps < 1:
            raise ValueError(f"num_steps: expected at least 1, got {self.num_steps}")
        if self.stream and not self.validation:
            raise ValueError("--stream: expected --validation with it, as nothing is held out")
        if self.validation_target and not self.validation:
            raise ValueError("--validation-target: expected --validation with it")


class Place(NamedTuple):
    """The place of pairs: a file of both sides, or one of each; or a name that stands for pairs."""

    name: str
    target: str | None = None
    # Of number words, and of what is held out.
    seed: int = 0

    @property
    def made(self) -> bool:
        """Whether it is no file, but number words."""
        return self.name == NUMBERS and not Path(NUMBERS).exists()

    def pairs(self) -> Iterator[Pair]:
        """Returns the pairs, read one by one."""
        if self.made:
            return iter(number_pairs(_NUMBER_PAIRS, seed=self.seed))
        return _pairs(self.path(), self.target)

    def path(self) -> Path:
        """Returns the file of pairs, or that of the sources."""
        known = self.name == CORPUS and not Path(CORPUS).exists()
        return corpus(CORPUS) if known else Path(self.name)


class Parts(NamedTuple):
    """Pairs to train on, or the place to stream them from, and pairs held out."""

    train: list[Pair] | Place
    held: list[Pair]

    @classmethod
    def read(cls, place: Place, data: DataOptions) -> Parts:
        """Returns the pairs of a place in two parts.

        Raises:
            OSError: a file cannot be read.
            TextError: it does not hold what it should.
        """
        held: list[Pair] = []
        if data.validation:
            files = (data.validation, data.validation_target or None)
            held = read_held_out(lambda: list(_pairs(*files)))
        if data.stream and not place.made:
            refuse_pipe(place.path())
            return cls(place, held)
        pairs = list(place.pairs())
        if held:
            return cls(pairs, held)
        sources = len({pair.source for pair in pairs})
        if sources < 2:
            raise TextError(
                f"{place.name}: too short, expected at least 2 distinct source sentences"
            )
        return cls(*split_pairs(pairs, max(1, round(sources * data.held_out)), seed=place.seed))

    def learn(self, name: str, data: DataOptions) -> tuple[Codec, Codec]:
        """Returns the codecs of both sides, learnt from what is trained on.

        Raises:
            TextError: on one side no token is frequent enough.
        """
        if data.tokenizer == SUBWORD:
            need("tokenizers")
        learn = partial(
            Codec.learn,
            tokenizer=data.tokenizer,
            normalization=data.normalization,
            min_freq=data.min_freq,
            reserved=RESERVED,
            size=data.subwords,
        )
        sides = [_Side(self.train, side) for side in (0, 1)]
        if data.shared_vocabulary:
            source = target = learn(_Both(*sides))
        else:
            source, target = map(learn, sides)
        for side, codec in (("source", source), ("target", target)):
            if len(codec.vocab) == 1 + len(RESERVED):
                raise TextError(
                    f"{name}: expected {side} tokens seen at least {data.min_freq} times, got "
                    "none; a lower --min-freq keeps rarer ones"
                )
        return source, target

    def encoded(self, codecs: tuple[Codec, Codec], data: DataOptions) -> tuple[PairData, PairData]:
        """Returns both parts as token numbers."""
        how: dict[str, Any] = {"num_steps": data.num_steps, "by_length": True}
        held = Pairs(self.held, *codecs, **how)
        how["batch_tokens"] = data.batch_tokens
        if isinstance(self.train, Place):
            path, target = self.train.path(), self.train.target
            return StreamedPairs(path, *codecs, **how, target_path=target), held
        return Pairs(self.train, *codecs, **how), held


def references_of(pairs: list[Pair], target: Codec) -> dict[str, list[str]]:
    """Returns the right translations of each sentence, normalised as the model's are."""
    references: dict[str, list[str]] = {}
    for source, text in pairs:
        whole = " ".join(normalize(text, target.normalization))
        references.setdefault(source, []).append(whole)
    return references


class _Side:
    """The sentences of one side, as often as they are asked for."""

    def __init__(self, pairs: list[Pair] | Place, side: int) -> None:
        self._pairs, self._side = pairs, side

    def __iter__(self) -> Iterator[str]:
        pairs = self._pairs.pairs() if isinstance(self._pairs, Place) else self._pairs
        return (pair[self._side] for pair in pairs)


class _Both:
    """The sentences of both sides, as often as they are asked for."""

    def __init__(self, *sides: _Side) -> None:
        self._sides = sides

    def __iter__(self) -> Iterator[str]:
        return chain(*self._sides)


def _pairs(path: str | Path, target: str | None) -> Iterator[Pair]:
    return read_pairs(path) if target is None else read_parallel(path, target)
