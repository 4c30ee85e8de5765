# SPDX-License-Identifier: MIT
"""Sentence pairs: from a file of any size to minibatches for a translator."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from .codec import Codec
from .reading import TextError, digest, read_lines, refuse_pipe


class Pair(NamedTuple):
    """A sentence and its translation."""

    source: str
    target: str


class EncodedPair(NamedTuple):
    """The token numbers of a pair, each side with its `<eos>` unless that was cut off."""

    source: list[int]
    target: list[int]


class TranslationBatch(NamedTuple):
    """Sentences side by side; past its length a row holds `<pad>`."""

    source: Tensor  # (B, S)
    source_lengths: Tensor  # (B,)
    target: Tensor  # (B, T)
    target_lengths: Tensor  # (B,)


class PairData(Protocol):
    """The training data of a translator: passes of minibatches that a seed determines."""

    @property
    def digest(self) -> str:
        """Names the data in a checkpoint."""

    def batches(
        self, batch_size: int, rng: random.Random | None = None
    ) -> Iterator[TranslationBatch]:
        """One pass in an order that rng draws; without one, as they come."""


def read_pairs(path: str | Path) -> Iterator[Pair]:
    """Yields the pairs of a UTF-8 file, one a line: source, tab, target.

    Blank lines are passed over, and so are further fields, such as the attribution that files of
    manythings.org have. A line is read when it is asked for, so the file may be of any size.

    Raises:
        OSError: the file cannot be read.
        TextError: it is not UTF-8, a line lacks one side, or there is no pair at all.
    """
    found = False
    for number, line in enumerate(read_lines(path), 1):
        if not line.strip():
            continue
        source, _, rest = line.partition("\t")
        target = rest.partition("\t")[0]
        if not (source.strip() and target.strip()):
            raise TextError(
                f"{path}, line {number}: expected two sentences with a tab between them, got "
                f"{line[:80]!r}"
            )
        found = True
        yield Pair(source, target)
    if not found:
        raise TextError(f"{path}: expected sentence pairs, got a file with none")


def read_parallel(source: str | Path, target: str | Path) -> Iterator[Pair]:
    """Yields the pairs of two UTF-8 files whose lines belong together.

    Lines that are blank in both are passed over.

    Raises:
        OSError: a file cannot be read.
        TextError: one is not UTF-8 or has more lines, a line is blank in one of them, or there is
            no pair at all.
    """
    found = False
    lines = zip_longest(read_lines(source), read_lines(target))
    for number, (one, other) in enumerate(lines, 1):
        if one is None or other is None:
            shorter = source if one is None else target
            raise TextError(f"{shorter}: expected a line {number:,} as its partner has, got none")
        if not one.strip() and not other.strip():
            continue
        if not one.strip() or not other.strip():
            blank = target if one.strip() else source
            raise TextError(f"{blank}, line {number}: expected a sentence, got a blank line")
        found = True
        yield Pair(one, other)
    if not found:
        raise TextError(f"{source}: expected sentences, got a file with none")


def split_pairs(
    pairs: Sequence[Pair], sources: int, *, seed: int = 0
) -> tuple[list[Pair], list[Pair]]:
    """Returns pairs to train on and pairs held out: some source sentences with all translations.

    Args:
        pairs: in any order, which is kept.
        sources: how many distinct source sentences are held out.
        seed: of the choice. Default 0.

    Raises:
        ValueError: not one distinct source sentence would be left on either side.
    """
    distinct = list(dict.fromkeys(pair.source for pair in pairs))
    if not 1 <= sources < len(distinct):
        raise ValueError(
            f"sources: expected 1 to {len(distinct) - 1:,}, fewer than the distinct source "
            f"sentences, got {sources:,}"
        )
    held = set(random.Random(seed).sample(distinct, sources))
    parts: tuple[list[Pair], list[Pair]] = ([], [])
    for pair in pairs:
        parts[pair.source in held].append(pair)
    return parts


def encode_pair(pair: Pair, source: Codec, target: Codec, num_steps: int | None) -> EncodedPair:
    """Returns the token numbers of a pair.

    Args:
        pair: two sentences.
        source, target: their codecs, with `<eos>` in the vocabulary.
        num_steps: both sides are cut to so many tokens, `<eos>` being one of them until it is
            cut off, as in *Dive into Deep Learning*. None: nothing is cut.
    """
    sides = [
        [*codec.vocab.encode(codec.split(text)), codec.vocab.eos][:num_steps]
        for codec, text in ((source, pair.source), (target, pair.target))
    ]
    return EncodedPair(*sides)


def pad_batch(
    sequences: Sequence[Sequence[int]], pad: int, num_steps: int | None = None
) -> tuple[Tensor, Tensor]:
    """Returns sequences as one tensor, and their lengths: (B, T) and (B,), int64.

    Args:
        sequences: token numbers.
        pad: stands where a sequence has ended.
        num_steps: T; longer sequences are cut. Default None: the longest sequence.
    """
    lengths = [len(sequence[:num_steps]) for sequence in sequences]
    width = num_steps if num_steps is not None else max(lengths, default=0)
    rows = [
        [*sequence[:width], *[pad] * (width - length)]
        for sequence, length in zip(sequences, lengths, strict=True)
    ]
    tokens = torch.tensor(rows, dtype=torch.int64).view(len(rows), width)
    return tokens, torch.tensor(lengths, dtype=torch.int64)


def translation_batches(
    pairs: Sequence[EncodedPair],
    batch_size: int,
    *,
    pads: tuple[int, int],
    rng: random.Random | None = None,
    num_steps: int | None = None,
    by_length: bool = False,
    batch_tokens: int = 0,
) -> Iterator[TranslationBatch]:
    """Yields one pass over pairs; the last minibatch may be smaller.

    Args:
        pairs: as `encode_pair` makes them.
        batch_size: pairs per minibatch, B.
        pads: the numbers of `<pad>` in both vocabularies.
        rng: draws the order. Default None: as they come.
        num_steps: width of both tensors, S = T; longer sentences are cut. Default None: as wide
            as the longest of the minibatch.
        by_length: whether sentences of about one length come together, which spares padding. The
            order of the minibatches stays random. Default False.
        batch_tokens: in place of batch_size, most tokens of a side of a minibatch, padding
            counted; a longer sentence comes alone. Default 0: batch_size counts.

    Raises:
        ValueError: batch_size or num_steps is below 1, or batch_tokens below 0.
    """
    if batch_tokens < 0:
        raise ValueError(f"batch_tokens: expected 0 or more, got {batch_tokens}")
    for name, value in (("batch_size", batch_size), ("num_steps", num_steps)):
        if value is not None and value < 1:
            raise ValueError(f"{name}: expected at least 1, got {value}")
    order = list(range(len(pairs)))
    if rng is not None:
        rng.shuffle(order)
    if by_length:
        order.sort(key=lambda i: (len(pairs[i].target), len(pairs[i].source)))
    groups = (
        _by_tokens(pairs, order, batch_tokens)
        if batch_tokens
        else [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
    )
    if by_length and rng is not None:
        rng.shuffle(groups)
    for group in groups:
        sources = pad_batch([pairs[i].source for i in group], pads[0], num_steps)
        targets = pad_batch([pairs[i].target for i in group], pads[1], num_steps)
        yield TranslationBatch(*sources, *targets)


def _by_tokens(pairs: Sequence[EncodedPair], order: list[int], most: int) -> list[list[int]]:
    """Neighbours in an order, as many together as the limit allows."""
    groups: list[list[int]] = []
    width = 0
    for i in order:
        own = max(len(pairs[i].source), len(pairs[i].target))
        width = max(width, own)
        if not groups or width * (len(groups[-1]) + 1) > most:
            groups.append([])
            width = own
        groups[-1].append(i)
    return groups


class Pairs:
    """Pairs held in memory.

    Args:
        pairs: sentences.
        source, target: their codecs, with `<pad>`, `<bos>` and `<eos>` in their vocabularies.
        num_steps: longest sentence, `<eos>` included; see `encode_pair`. Default None: any.
        by_length, batch_tokens: see `translation_batches`. Default False and 0.
    """

    def __init__(
        self,
        pairs: Iterable[Pair],
        source: Codec,
        target: Codec,
        *,
        num_steps: int | None = None,
        by_length: bool = False,
        batch_tokens: int = 0,
    ) -> None:
        self.pads = (source.vocab.pad, target.vocab.pad)
        self.num_steps, self.by_length, self.batch_tokens = num_steps, by_length, batch_tokens
        self.encoded = [encode_pair(pair, source, target, num_steps) for pair in pairs]

    def __len__(self) -> int:
        return len(self.encoded)

    @property
    def digest(self) -> str:
        return hashlib.sha256(str(self.encoded).encode()).hexdigest()

    def batches(
        self, batch_size: int, rng: random.Random | None = None
    ) -> Iterator[TranslationBatch]:
        """Yields one pass, in an order that rng draws; without one, as they come."""
        return translation_batches(
            self.encoded,
            batch_size,
            pads=self.pads,
            rng=rng,
            by_length=self.by_length,
            batch_tokens=self.batch_tokens,
        )


class StreamedPairs:
    """The pairs of a file that need not fit into memory; only some are held at a time.

    A pass reads the file from start to end and shuffles within what it holds, so a file that is
    sorted by anything should be shuffled beforehand.

    Args:
        path: the file; see `read_pairs`.
        source, target, num_steps, by_length, batch_tokens: as for `Pairs`.
        target_path: of the targets, path being that of the sources; see `read_parallel`. Default
            None: path holds both.
        held: how many pairs are in memory at a time. Default 100,000.

    Raises:
        OSError: there is no such file.
        TextError: it is a pipe, which can be read only once.
    """

    def __init__(
        self,
        path: str | Path,
        source: Codec,
        target: Codec,
        *,
        num_steps: int | None = None,
        by_length: bool = False,
        batch_tokens: int = 0,
        target_path: str | Path | None = None,
        held: int = 100_000,
    ) -> None:
        self.path, self.source, self.target = Path(path), source, target
        self.target_path = None if target_path is None else Path(target_path)
        for part in filter(None, (self.path, self.target_path)):
            refuse_pipe(part)
        self.held = held
        self.how: dict[str, Any] = {
            "num_steps": num_steps,
            "by_length": by_length,
            "batch_tokens": batch_tokens,
        }

    @property
    def digest(self) -> str:
        parts = filter(None, (self.path, self.target_path))
        return " ".join(digest(part, "sha256") for part in parts)

    def batches(
        self, batch_size: int, rng: random.Random | None = None
    ) -> Iterator[TranslationBatch]:
        """Yields one pass, in an order that rng draws; without one, as they come."""
        pairs = (
            read_pairs(self.path)
            if self.target_path is None
            else read_parallel(self.path, self.target_path)
        )
        while some := list(islice(pairs, self.held)):
            part = Pairs(some, self.source, self.target, **self.how)
            yield from part.batches(batch_size, rng)
