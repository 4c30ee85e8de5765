# SPDX-License-Identifier: MIT
"""Text and lines from files and streams: UTF-8, with any of the three ends of lines."""

from __future__ import annotations

import codecs
import hashlib
import io
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

_BLOCK = 1 << 16


class TextError(ValueError):
    """A text that cannot be used, and why."""


def read_text(path: str | Path) -> str:
    """Returns a UTF-8 file's text, without byte order mark, its lines ended by a line feed.

    Raises:
        OSError: the file cannot be read.
        TextError: it is empty or not UTF-8.
    """
    text = _decoded(Path(path).read_bytes(), 0, str(path))
    if not text.strip():
        raise TextError(f"{path}: expected text, got a file with none")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_lines(path: str | Path, start: int = 0, end: int | None = None) -> Iterator[str]:
    """Yields a UTF-8 file's lines without their ends, each read when it is asked for.

    Lines end in a line feed, a carriage return, or both. Read from the start, the file may be a
    pipe.

    Args:
        path: a file of any size.
        start, end: offsets in bytes; lines that begin in between are read. Default: all.

    Raises:
        OSError: the file cannot be read.
        TextError: it is not UTF-8, or a pipe that is to be read from elsewhere than its start.
    """
    with open(path, "rb") as file:
        if start:
            if not file.seekable():
                raise TextError(f"{path}: expected a file to read parts of, got a pipe")
            # From one byte earlier: what begins there may end where the first line begins.
            file.seek(start - 1)
        for group in _groups(file, max(start - 1, 0)):
            for place, data in group:
                if place < start:
                    continue
                if end is not None and place >= end:
                    return
                yield _decoded(data, place, str(path)).rstrip("\r\n")


def arriving_lines(stream: BinaryIO, name: str) -> Iterator[list[str]]:
    """Yields the lines of a stream without their ends, those together that are there together.

    Whoever types, or waits for an answer to each line, is not kept waiting for more lines.

    Args:
        stream: of UTF-8 text.
        name: what to call it in errors.

    Raises:
        TextError: a line is not UTF-8; those before it have been yielded.
    """
    number = 0
    for group in _groups(stream, 0):
        lines: list[str] = []
        for place, data in group:
            number += 1
            try:
                lines.append(_decoded(data, place, f"{name}, line {number}").rstrip("\r\n"))
            except TextError:
                if lines:
                    yield lines
                raise
        yield lines


def digest(path: Path, algorithm: str) -> str:
    """Returns the hexadecimal digest of a file of any size."""
    result = hashlib.new(algorithm)
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            result.update(block)
    return result.hexdigest()


def refuse_pipe(path: Path) -> None:
    """Raises TextError if what is to be read again and again can be read only once."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise TextError(f"{path}: expected a file that can be read again, got a pipe or the like")


def refuse_string(name: str, texts: object) -> None:
    """Raises TypeError if one string stands where several belong."""
    if isinstance(texts, str):
        raise TypeError(f"{name}: expected strings, such as a list of them, got one {texts[:40]!r}")


def _groups(stream: BinaryIO, place: int) -> Iterator[list[tuple[int, bytes]]]:
    """Lines with their ends and the offsets they begin at, grouped by what one read returns.

    Args:
        stream: read to its end.
        place: the offset of what comes first.
    """
    # One read at most of what lies below, where the stream can do that.
    read = stream.read1 if isinstance(stream, io.BufferedReader | io.BytesIO) else stream.read
    rest, size = b"", _BLOCK
    while block := read(size):
        lines = (rest + block).splitlines(keepends=True)
        # A carriage return may be the first half of an end.
        rest = b"" if lines[-1].endswith(b"\n") else lines.pop()
        # However long a line is, it is copied a few times only.
        size = max(_BLOCK, len(rest))
        group = []
        for line in lines:
            group.append((place, line))
            place += len(line)
        if group:
            yield group
    if rest:
        yield [(place, rest)]


def _decoded(data: bytes, place: int, name: str) -> str:
    mark = codecs.BOM_UTF8 if place == 0 and data.startswith(codecs.BOM_UTF8) else b""
    try:
        return data[len(mark) :].decode("utf-8")
    except UnicodeDecodeError as error:
        start = len(mark) + error.start
        raise TextError(
            f"{name}: expected UTF-8 text, got byte 0x{data[start]:02x} at offset "
            f"{place + start} ({error.reason})"
        ) from None
