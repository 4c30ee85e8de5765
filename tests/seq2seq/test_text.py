# SPDX-License-Identifier: MIT
"""Vocabulary, tokens, minibatches and the n-gram baseline, with the book's facts."""

import math
import os
import random
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from fused_rnn.text import (
    RESERVED,
    Batch,
    Codec,
    NgramModel,
    TextError,
    Vocab,
    normalize,
    perplexity,
    python_topics,
    random_batches,
    read_text,
    sequential_batches,
)
from fused_rnn.text.batches import least_tokens

CHINESE = "学而时习之，不亦说乎？\n有朋自远方来，不亦乐乎？\n"


@pytest.fixture
def time_machine() -> str:
    folder = os.environ.get("FUSED_RNN_TEST_DATA")
    if not folder:
        pytest.skip("FUSED_RNN_TEST_DATA does not name a folder with timemachine.txt")
    return read_text(Path(folder) / "timemachine.txt")


def test_vocab_counts_then_keeps_order() -> None:
    vocab = Vocab("abcbcc dd".replace(" ", ""), reserved=("<pad>", "d"))
    assert vocab.tokens == ["<unk>", "<pad>", "d", "c", "b", "a"]
    assert Vocab("xyzyx").tokens == ["<unk>", "x", "y", "z"]
    assert vocab["d"] == 2 and vocab["?"] == 0 and "?" not in vocab and len(vocab) == 6
    assert vocab.encode("ab?") == [5, 4, 0]
    assert vocab.decode([5, 0]) == ["a", "<unk>"]


def test_vocab_leaves_out_rare_tokens() -> None:
    assert Vocab("aaabbc", min_freq=2).tokens == ["<unk>", "a", "b"]


def test_words_spelt_like_control_tokens_are_text() -> None:
    text = "bonjour <eos> monde <pad> <unk> <eos>"
    for tokenizer in ("word", "space"):
        with pytest.warns(UserWarning, match="read as <unk>: <eos> 2, <pad> 1, <unk> 1"):
            codec = Codec.learn([text], tokenizer=tokenizer, reserved=RESERVED)
        assert codec.vocab.tokens == ["<unk>", *RESERVED, "bonjour", "monde"]
        assert codec.encode(text).tolist() == [4, 0, 5, 0, 0, 0]
        assert codec.vocab.unread(codec.split(text)) == text.split()[1:2] + text.split()[3:]
        again = Codec.from_record(codec.record())
        assert torch.equal(again.encode(text), codec.encode(text))
        assert codec.vocab.eos == codec.vocab["<eos>"] == 3
    with pytest.warns(UserWarning, match="<bos> 1"):
        # Without a meaning in this vocabulary, too: a model of one kind reads as the other does.
        assert Vocab(["a", "<bos>"]).tokens == ["<unk>", "a"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        codec = Codec.learn([text], tokenizer="char", reserved=RESERVED)
        assert codec.decode(codec.encode(text).tolist()) == text


def test_spaces_part_and_are_no_tokens() -> None:
    codec = Codec.learn(["a  b ", " "], tokenizer="space")
    assert codec.split("") == codec.split("  ") == []
    assert codec.split(" a  b\t ") == ["a", "b\t"] and codec.vocab.tokens == ["<unk>", "a", "b"]


def test_numbers_of_no_token() -> None:
    for wrong in (-1, 3):
        with pytest.raises(ValueError, match=f"numbers: expected 0 to 2, got {wrong}"):
            Vocab("ab").decode([1, wrong])
    with pytest.raises(TypeError, match="texts: expected strings, such as a list of them, got one"):
        Codec.learn("a text")


def test_vocab_from_list() -> None:
    vocab = Vocab("hello world", reserved=("<pad>",))
    assert Vocab.from_list(vocab.tokens).tokens == vocab.tokens
    with pytest.raises(ValueError, match="expected '<unk>' first"):
        Vocab.from_list(["a"])
    with pytest.raises(ValueError, match="each token once"):
        Vocab.from_list(["<unk>", "a", "a"])


@pytest.mark.parametrize("text", [CHINESE, "naïve café\t🙂\n", "नमस्ते दुनिया"])
def test_characters_lose_nothing(text: str) -> None:
    codec = Codec.of(text)
    assert codec.decode(codec.encode(text).tolist()) == text


def test_words() -> None:
    codec = Codec.of("to be or\nnot to be", tokenizer="word")
    assert codec.split("to be or\nnot to be") == ["to", "be", "or", "not", "to", "be"]
    assert codec.decode(codec.encode("be  not to").tolist()) == "be not to"


def test_normalization_only_by_name() -> None:
    text = "Time—Machine, 1895\nby H. G. Wells"
    assert normalize(text, "none") == [text]
    assert normalize(text, "book1") == ["time machine", "by h g wells"]
    assert normalize(text, "book2") == ["time machine by h g wells"]
    with pytest.raises(ValueError, match="expected one of .*got 'lower'"):
        normalize(text, "lower")


def test_book_vocabularies(time_machine: str) -> None:
    first = Codec.of(time_machine, normalization="book1")
    assert len(first.encode(time_machine)) == 170_580 and len(first.vocab) == 28
    second = Codec.of(time_machine, normalization="book2")
    assert len(second.encode(time_machine)) == 173_428 and len(second.vocab) == 28
    words = Codec.of(time_machine, tokenizer="word", normalization="book1")
    assert words.encode(time_machine)[:7].tolist() == [1, 19, 50, 40, 2183, 2184, 400]
    assert words.split(time_machine)[:7] == ["the", "time", "machine", "by", "h", "g", "wells"]
    assert len(words.split(time_machine)) == 32_775 and len(words.vocab) == 4_580
    assert words.vocab.tokens[1:6] == ["the", "i", "and", "of", "a"]
    assert time_machine.count("\n") == 3_221


def book_batches(tokens: list[int], batch: int, steps: int, shuffled: bool) -> list[list]:
    """The first edition's two iterators, on lists, with Python's global generator."""
    if not shuffled:
        offset = random.randint(0, steps)
        rows = (len(tokens) - offset - 1) // batch
        xs = [tokens[offset + i * rows :][:rows] for i in range(batch)]
        ys = [tokens[offset + 1 + i * rows :][:rows] for i in range(batch)]
        cuts = range(0, rows // steps * steps, steps)
        return [[[row[c : c + steps] for row in part] for part in (xs, ys)] for c in cuts]
    tokens = tokens[random.randint(0, steps - 1) :]
    count = (len(tokens) - 1) // steps
    starts = list(range(0, count * steps, steps))
    random.shuffle(starts)
    groups = [starts[i * batch : (i + 1) * batch] for i in range(count // batch)]
    return [[[tokens[s + d :][:steps] for s in group] for d in (0, 1)] for group in groups]


@pytest.mark.parametrize("batch, steps", [(2, 5), (3, 7), (1, 1), (4, 1)])
@pytest.mark.parametrize("shuffled", [True, False])
def test_batches_are_the_books(batch: int, steps: int, shuffled: bool) -> None:
    tokens = torch.arange(83)
    for seed in range(2 * steps):
        random.seed(seed)
        expected = book_batches(tokens.tolist(), batch, steps, shuffled)
        draw = random_batches if shuffled else sequential_batches
        ours = [
            [x.tolist(), y.tolist()] for x, y in draw(tokens, batch, steps, rng=random.Random(seed))
        ]
        assert ours == expected and ours
        random.seed(seed)
        assert [[x.tolist(), y.tolist()] for x, y in draw(tokens, batch, steps)] == expected


def test_sequential_rows_go_on() -> None:
    batches = list(sequential_batches(torch.arange(200), 3, 6))
    for (x, y), (following, _) in zip(batches, batches[1:], strict=False):
        assert torch.equal(y, x + 1)
        assert torch.equal(following[:, 0], x[:, -1] + 1)


@pytest.mark.parametrize("draw", [random_batches, sequential_batches])
def test_batches_refuse(draw: Callable[..., Iterator[Batch]]) -> None:
    least = least_tokens(3, 4)
    for seed in range(50):
        assert list(draw(torch.arange(least), 3, 4, rng=random.Random(seed)))
    for tokens, batch, steps, message in [
        (torch.arange(least - 1), 3, 4, f"expected at least {least}"),
        (torch.arange(9), 0, 4, "batch_size"),
        (torch.arange(9), 1, 0, "num_steps"),
        (torch.zeros(3, 3), 1, 1, "one dimension"),
    ]:
        with pytest.raises(ValueError, match=message):
            next(draw(tokens, batch, steps))


def test_perplexity() -> None:
    assert perplexity(10 * math.log(7), 10) == pytest.approx(7)
    assert perplexity(1e6, 1) == math.inf
    with pytest.raises(ValueError, match="at least one"):
        perplexity(0.0, 0)


def test_ngram_by_hand() -> None:
    # a a b of the vocabulary a b c. Each count from one to four counted as seen once, so y = 1/3,
    # D = (1/3, 1, 5/3); 4/3 of 3 is left to the uniform distribution.
    model = NgramModel([0, 0, 1], 3, order=1)
    assert [model.probability((), t) for t in range(3)] == pytest.approx([13 / 27, 10 / 27, 4 / 27])
    assert model.loss_sum([0, 1, 2]) == pytest.approx(-math.log(10 / 27 * 4 / 27))


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_ngram_probabilities_sum_to_one(order: int) -> None:
    rng = random.Random(order)
    tokens = [rng.choice((0, 0, 1, 2, rng.randrange(8))) for _ in range(500)]
    model = NgramModel(tokens, 9, order=order)
    for start in range(0, 480, 40):
        for history in (tokens[start : start + 7], [8, *tokens[start : start + 2]], [8, 8, 8], []):
            probabilities = [model.probability(history, token) for token in range(9)]
            assert math.fsum(probabilities) == pytest.approx(1) and min(probabilities) > 0


def test_ngram_learns() -> None:
    tokens = Codec.of(python_topics()).encode(python_topics()).tolist()
    scores = [
        perplexity(NgramModel(tokens[:30_000], 110, order=n).loss_sum(tokens[30_000:33_000]), 2_999)
        for n in (1, 2, 3, 4)
    ]
    assert scores == sorted(scores, reverse=True) and scores[0] < 40 and scores[-1] < 8


def test_read_text(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_bytes(b"\xef\xbb\xbf" + CHINESE.replace("\n", "\r\n").encode())
    assert read_text(path) == CHINESE
    for data, message in [
        (b"", "file with none"),
        (b" \n\t\n", "file with none"),
        ("Höhe".encode("latin-1"), "expected UTF-8 text, got byte 0xf6 at offset 1"),
        (CHINESE.encode()[:-2] + b"\xe4", "UTF-8"),
        (b"\xff\xfea\0b\0", "UTF-8"),
    ]:
        path.write_bytes(data)
        with pytest.raises(TextError, match=message):
            read_text(path)
    with pytest.raises(FileNotFoundError):
        read_text(tmp_path / "absent")
