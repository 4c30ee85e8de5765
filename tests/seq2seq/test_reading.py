# SPDX-License-Identifier: MIT
"""Lines of files, pipes and streams: marks, ends of lines, and what is read when."""

import io
import os
import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fused_rnn.text import (
    Codec,
    StreamedPairs,
    StreamedText,
    TextError,
    arriving_lines,
    read_lines,
    read_pairs,
    read_parallel,
    read_text,
    reading,
    streamed_batches,
)

MARK = b"\xef\xbb\xbf"


@pytest.fixture
def pipe(tmp_path: Path) -> Iterator[Callable[[bytes], Path]]:
    """A named pipe into which data are written."""
    if not hasattr(os, "mkfifo"):
        pytest.skip("there are no named pipes here")
    path, writers = tmp_path / "pipe", []
    os.mkfifo(path)

    def write(data: bytes) -> Path:
        writers.append(threading.Thread(target=path.write_bytes, args=(data,), daemon=True))
        writers[-1].start()
        return path

    yield write
    for writer in writers:
        writer.join(10)


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n"], ids=repr)
@pytest.mark.parametrize("mark", [b"", MARK], ids=["plain", "marked"])
def test_every_end_of_a_line(tmp_path: Path, end: str, mark: bytes) -> None:
    path = tmp_path / "pairs"
    lines = ["Go.\tVa !", "", "学\té", "a\tb"]
    path.write_bytes(mark + end.join(lines).encode())
    assert list(read_lines(path)) == lines
    assert list(read_pairs(path)) == [("Go.", "Va !"), ("学", "é"), ("a", "b")]
    assert read_text(path) == "\n".join(lines)
    stream = io.BytesIO(mark + end.join(lines).encode())
    assert [line for group in arriving_lines(stream, "it") for line in group] == lines


def test_lines_in_blocks_of_any_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng, path = random.Random(0), tmp_path / "text"
    for size in (1, 2, 3, 7, 64):
        monkeypatch.setattr(reading, "_BLOCK", size)
        data = "".join(rng.choice("ab\r\n") for _ in range(200))
        path.write_bytes(data.encode())
        expected = data.replace("\r\n", "\n").replace("\r", "\n").split("\n")
        # What stands behind the last end is a line only if there is something.
        expected = expected if expected[-1] else expected[:-1]
        assert list(read_lines(path)) == expected
        for cut in range(len(data) + 1):
            assert [*read_lines(path, 0, cut), *read_lines(path, cut)] == expected


def test_pipes(pipe: Callable[[bytes], Path]) -> None:
    assert list(read_pairs(pipe(b"a\tb\nc\td\n"))) == [("a", "b"), ("c", "d")]
    assert read_text(pipe(b"a\r\nb")) == "a\nb"
    path = pipe(b"a\tb\n")
    with pytest.raises(TextError, match=r"pipe: expected a file to read parts of, got a pipe"):
        list(read_lines(path, 2))
    codec = Codec.learn(["ab\t"], tokenizer="char", reserved=("<pad>", "<bos>", "<eos>"))
    for read_again in (
        lambda: StreamedPairs(path, codec, codec),
        lambda: StreamedText(path, codec),
        lambda: next(streamed_batches(path, codec, 1, 1)),
    ):
        with pytest.raises(TextError, match=r"pipe: expected a file that can be read again"):
            read_again()


def test_lines_are_there_when_they_have_arrived() -> None:
    ours, theirs = os.pipe()
    with open(ours, "rb") as stream, open(theirs, "wb", buffering=0) as writer:
        groups = arriving_lines(stream, "it")
        writer.write(MARK + b"one\ntwo\n")
        assert next(groups) == ["one", "two"]
        writer.write(b"three\nfo")
        assert next(groups) == ["three"]
        writer.write(b"ur\n")
        assert next(groups) == ["four"]
        writer.write(b"last")
        writer.close()
        assert list(groups) == [["last"]]


def test_a_line_that_is_no_text_comes_after_those_before_it() -> None:
    groups = arriving_lines(io.BytesIO(b"one\n\xff\n"), "it")
    assert next(groups) == ["one"]
    with pytest.raises(TextError, match="it, line 2: expected UTF-8 text, got byte 0xff at offset"):
        next(groups)
    with pytest.raises(TextError, match="byte 0xff at offset 4"):
        list(arriving_lines(io.BytesIO(MARK + b"a\xff"), "it"))


def test_two_files_whose_lines_belong_together(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_text("a b\n\nc\tx\n")
    two.write_text("A\n  \nC\n")
    assert list(read_parallel(one, two)) == [("a b", "A"), ("c\tx", "C")]
    for first, second, message in [
        ("a\nb\n", "A\n", "two: expected a line 2 as its partner has, got none"),
        ("a\n", "A\nB\n", "one: expected a line 2 as its partner has, got none"),
        ("a\nb\n", "A\n\n", "two, line 2: expected a sentence, got a blank line"),
        ("\n", " \n", "one: expected sentences, got a file with none"),
    ]:
        one.write_text(first)
        two.write_text(second)
        with pytest.raises(TextError, match=message):
            list(read_parallel(one, two))
    codec = Codec.learn(["a b", "c", "A C"], tokenizer="word", reserved=("<pad>", "<bos>", "<eos>"))
    one.write_text("a\nb\n")
    two.write_text("A\nC\n")
    streamed = StreamedPairs(one, codec, codec, target_path=two)
    batch = next(streamed.batches(2))
    assert codec.vocab.decode(batch.target[:, 0].tolist()) == ["A", "C"]
    before = streamed.digest
    two.write_text("A\nA\n")
    assert streamed.digest != before
