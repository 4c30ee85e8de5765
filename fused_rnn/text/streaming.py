# SPDX-License-Identifier: MIT
"""Minibatches for language models from a file that need not fit into memory."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from .batches import Batch
from .codec import Codec
from .reading import TextError, digest, read_lines, refuse_pipe


def streamed_batches(
    path: str | Path, codec: Codec, batch_size: int, num_steps: int
) -> Iterator[Batch]:
    """Yields one pass over a file read at batch_size places at once, each from left to right.

    The file is parted into batch_size pieces of equal size in bytes, moved to where a line
    begins. Row i of a minibatch goes on where row i of the one before it ended, so state is to be
    carried, as with `sequential_batches`; the pass ends with the shortest piece. No more than a
    line and a minibatch of each piece is in memory.

    Args:
        path: a UTF-8 file of lines, of any size.
        codec: makes token numbers of it line by line, the line feed included.
        batch_size: pieces, B.
        num_steps: tokens of a piece per minibatch, T.

    Raises:
        OSError: the file cannot be read.
        TextError: it is not UTF-8, too short for one minibatch, or a pipe.
        ValueError: batch_size or num_steps is below 1.
    """
    for name, value in (("batch_size", batch_size), ("num_steps", num_steps)):
        if value < 1:
            raise ValueError(f"{name}: expected at least 1, got {value}")
    refuse_pipe(Path(path))
    size = Path(path).stat().st_size
    ends = [size * (i + 1) // batch_size for i in range(batch_size)]
    pieces = [
        _numbers(path, codec, start, end) for start, end in zip([0, *ends], ends, strict=False)
    ]
    last = [list(islice(piece, 1)) for piece in pieces]
    first = True
    while True:
        rows = [
            begun + list(islice(piece, num_steps))
            for begun, piece in zip(last, pieces, strict=True)
        ]
        if min(map(len, rows)) <= num_steps:
            if first:
                raise TextError(
                    f"{path}: too short, expected at least {num_steps + 1} tokens in each of "
                    f"{batch_size} pieces, got one of {min(map(len, rows))}"
                )
            return
        tokens: Tensor = torch.tensor(rows, dtype=torch.int64)
        yield Batch(tokens[:, :-1], tokens[:, 1:])
        last, first = [row[-1:] for row in rows], False


class StreamedText:
    """The text of a file that need not fit into memory.

    Args:
        path: a UTF-8 file of lines.
        codec: makes token numbers of it; see `streamed_batches`.

    Raises:
        OSError: there is no such file.
        TextError: it is a pipe, which can be read only once.
    """

    def __init__(self, path: str | Path, codec: Codec) -> None:
        self.path, self.codec = Path(path), codec
        refuse_pipe(self.path)

    @property
    def digest(self) -> str:
        """Names the text in a checkpoint."""
        return digest(self.path, "sha256")

    def holds(self, number: int) -> bool:
        """Returns whether a token is anywhere in the text, which is read until it is found."""
        return number in _numbers(self.path, self.codec, 0, None)

    def batches(self, batch_size: int, num_steps: int) -> Iterator[Batch]:
        """Yields one pass; see `streamed_batches`."""
        return streamed_batches(self.path, self.codec, batch_size, num_steps)


def _numbers(path: str | Path, codec: Codec, start: int, end: int | None) -> Iterator[int]:
    for line in read_lines(path, start, end):
        yield from codec.vocab.encode(codec.split(f"{line}\n"))
