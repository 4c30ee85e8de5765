# SPDX-License-Identifier: MIT
"""Sentence pairs, subwords, corpora, streams, number words and the book's BLEU."""

import functools
import hashlib
import http.server
import math
import os
import random
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from fused_rnn.text import (
    EOS,
    PAD,
    RESERVED,
    Codec,
    Pair,
    Pairs,
    StreamedPairs,
    TextError,
    Vocab,
    bleu,
    corpora,
    corpus,
    encode_pair,
    english_number,
    french_number,
    normalize,
    number_pairs,
    pad_batch,
    read_lines,
    read_pairs,
    split_pairs,
    streamed_batches,
    translation_batches,
)

NUMBERS = number_pairs(40, seed=1, limit=1000)


@pytest.fixture
def book_pairs() -> list[Pair]:
    folder = os.environ.get("FUSED_RNN_TEST_DATA")
    if not folder:
        pytest.skip("FUSED_RNN_TEST_DATA does not name a folder with fra.txt")
    return list(read_pairs(Path(folder) / "fra.txt"))


def codecs(pairs: list[Pair], **options: object) -> tuple[Codec, Codec]:
    source, target = (
        Codec.learn(side, reserved=RESERVED, **options) for side in zip(*pairs, strict=True)
    )
    return source, target


def test_translation_data_is_the_books(book_pairs: list[Pair]) -> None:
    options = dict(tokenizer="space", normalization="book-pairs", min_freq=2)
    assert len(book_pairs) == 167_130
    source, target = codecs(book_pairs, **options)
    # The book's target vocabulary has one more: the nothing between two spaces.
    assert len(source.vocab) == 10_012 and len(target.vocab) == 17_850
    # As one batch of a sentence, cut or padded to ten.
    encoded = encode_pair(book_pairs[0], source, target, 10)
    tokens, lengths = pad_batch([encoded.source[:-1]], source.vocab.pad, 10)
    assert tokens.tolist() == [[47, 4, 1, 1, 1, 1, 1, 1, 1, 1]] and lengths.tolist() == [2]
    for count in (600, 601):
        small = codecs(book_pairs[:count], **options)
        assert [len(codec.vocab) for codec in small] == [184, 201]
    # The second edition reads one pair too many, too, and numbers `<bos>` for targets only.
    sources, targets = zip(*book_pairs[: 512 + 128 + 1], strict=True)
    assert len(Codec.learn(sources, reserved=(PAD, EOS), **options).vocab) == 194
    assert len(Codec.learn(targets, reserved=RESERVED, **options).vocab) == 214


def test_normalization_of_pairs() -> None:
    text = "Va\u202f! Qui\u00a0? Non, OUI... 3.5"
    assert normalize(text, "book-pairs") == ["va ! qui ? non , oui . . . 3 .5"]
    assert normalize("  a\u202f b\t\tc\u0327 ", "spaces") == ["a b \u00e7"]


def test_read_pairs(tmp_path: Path) -> None:
    path = tmp_path / "pairs"
    path.write_bytes("\ufeffGo.\tVa !\r\n\n  \nRun!\tCours !\tCC-BY 2.0\n学\tétude".encode())
    assert list(read_pairs(path)) == [("Go.", "Va !"), ("Run!", "Cours !"), ("学", "étude")]
    for data, message in [
        (b"a\tb\nno tab here\n", "line 2: expected two sentences .* got 'no tab here'"),
        (b"a\t\n", "line 1: expected two sentences"),
        (b"\tb\n", "line 1: expected two sentences"),
        (b"a\tb\n\t\tx\n", "line 2: expected two sentences"),
        (b"", "file with none"),
        (b"\n \n", "file with none"),
        (b"a\tb\nc\td\xff\n", "expected UTF-8 text, got byte 0xff at offset 7"),
    ]:
        path.write_bytes(data)
        with pytest.raises(TextError, match=message):
            list(read_pairs(path))
    with pytest.raises(FileNotFoundError):
        list(read_pairs(tmp_path / "absent"))


def test_sentences_are_held_out_with_all_their_translations() -> None:
    pairs = [Pair(f"s{i % 7}", f"t{i}") for i in range(20)]
    train, held = split_pairs(pairs, 3, seed=1)
    assert sorted(train + held) == sorted(pairs) and train == sorted(train, key=pairs.index)
    assert len({pair.source for pair in held}) == 3
    assert not {pair.source for pair in held} & {pair.source for pair in train}
    assert split_pairs(pairs, 3, seed=1) == (train, held) != split_pairs(pairs, 3, seed=2)
    for wrong in (0, 7):
        with pytest.raises(ValueError, match="sources: expected 1 to 6"):
            split_pairs(pairs, wrong)


def test_end_of_sentence_is_cut_off_as_in_the_book() -> None:
    source, target = codecs([Pair("a b c", "d e")])
    eos = source.vocab.eos
    assert encode_pair(Pair("a b c", "d"), source, target, 3) == (
        source.vocab.encode("abc"),
        [target.vocab["d"], eos],
    )
    assert encode_pair(Pair("a b c", "d"), source, target, None).source[-1] == eos
    assert encode_pair(Pair("a ? c", "d"), source, target, None).source[1] == Vocab.unknown


def test_batches_pad_and_count() -> None:
    data = Pairs(NUMBERS, *codecs(NUMBERS))
    seen = []
    for batch in data.batches(7):
        for tokens, lengths in (batch[:2], batch[2:]):
            assert tokens.size(1) == lengths.max()
            mask = torch.arange(tokens.size(1)) < lengths[:, None]
            assert bool((tokens[~mask] == 1).all()) and not (tokens[mask] == 1).any()
            assert bool((tokens.gather(1, lengths[:, None] - 1) == 3).all())
        seen += [row[: int(n)].tolist() for row, n in zip(batch.source, batch[1], strict=True)]
    assert seen == [pair.source for pair in data.encoded]
    fixed = next(translation_batches(data.encoded, 7, pads=(1, 1), num_steps=3))
    assert fixed.source.shape == fixed.target.shape == (7, 3)
    assert fixed.source_lengths.max() == 3
    with pytest.raises(ValueError, match="batch_size: expected at least 1, got 0"):
        next(data.batches(0))
    with pytest.raises(ValueError, match="reserved"):
        Pairs(NUMBERS, Codec(Vocab()), Codec(Vocab()))


@pytest.mark.parametrize("by_length", [False, True])
def test_an_order_is_its_seeds(by_length: bool) -> None:
    data = Pairs(NUMBERS, *codecs(NUMBERS), by_length=by_length)

    def drawn(seed: int) -> list[list[int]]:
        batches = data.batches(6, random.Random(seed))
        return [row[: int(n)].tolist() for b in batches for row, n in zip(b[0], b[1], strict=True)]

    assert drawn(1) == drawn(1) != drawn(2)
    assert sorted(drawn(1)) == sorted(drawn(2)) == sorted(pair.source for pair in data.encoded)
    if by_length:
        for batch in data.batches(6, random.Random(0)):
            assert batch.target_lengths.max() - batch.target_lengths.min() <= 2


@pytest.mark.parametrize("by_length", [False, True])
def test_minibatches_of_so_many_tokens(by_length: bool) -> None:
    data = Pairs(NUMBERS, *codecs(NUMBERS), by_length=by_length, batch_tokens=150)
    seen, sizes = [], set()
    for batch in data.batches(7, random.Random(0)):
        count, width = batch.target.size(0), max(batch.source.size(1), batch.target.size(1))
        assert count * width <= 150
        sizes.add(count)
        seen += [
            r[: int(n)].tolist() for r, n in zip(batch.source, batch.source_lengths, strict=True)
        ]
    assert sorted(seen) == sorted(pair.source for pair in data.encoded) and len(sizes) > 1
    data = Pairs(NUMBERS, *codecs(NUMBERS), batch_tokens=1)
    assert all(len(batch.source) == 1 for batch in data.batches(7))
    with pytest.raises(ValueError, match="batch_tokens: expected 0 or more, got -1"):
        next(Pairs(NUMBERS, *codecs(NUMBERS), batch_tokens=-1).batches(7))


def test_streamed_pairs_are_the_pairs(tmp_path: Path) -> None:
    path = tmp_path / "pairs"
    path.write_text("".join(f"{s}\t{t}\n" for s, t in NUMBERS))
    pair = codecs(NUMBERS)
    streamed = StreamedPairs(path, *pair, held=15)
    rows = [r for b in streamed.batches(4) for r in b.target_lengths.tolist()]
    assert rows == [r for b in Pairs(NUMBERS, *pair).batches(4) for r in b.target_lengths.tolist()]
    shuffled = [r for b in streamed.batches(4, random.Random(0)) for r in b.target_lengths.tolist()]
    assert shuffled != rows and sorted(shuffled[:15]) == sorted(rows[:15])
    before = streamed.digest
    path.write_text("a\tb\n")
    assert streamed.digest != before


def test_number_words() -> None:
    known = {
        0: ("zero", "zéro"),
        21: ("twenty-one", "vingt et un"),
        71: ("seventy-one", "soixante et onze"),
        80: ("eighty", "quatre-vingts"),
        81: ("eighty-one", "quatre-vingt-un"),
        97: ("ninety-seven", "quatre-vingt-dix-sept"),
        100: ("one hundred", "cent"),
        200: ("two hundred", "deux cents"),
        407: ("four hundred and seven", "quatre cent sept"),
        1000: ("one thousand", "mille"),
        1001: ("one thousand and one", "mille un"),
        80_000: ("eighty thousand", "quatre-vingt mille"),
        200_300: ("two hundred thousand three hundred", "deux cent mille trois cents"),
        999_999: (
            "nine hundred and ninety-nine thousand nine hundred and ninety-nine",
            "neuf cent quatre-vingt-dix-neuf mille neuf cent quatre-vingt-dix-neuf",
        ),
    }
    for number, words in known.items():
        assert (english_number(number), french_number(number)) == words
    for language in (english_number, french_number):
        assert len({language(number) for number in range(5000)}) == 5000
        with pytest.raises(ValueError, match="number: expected 0 to 999,999"):
            language(1_000_000)
    assert len(set(number_pairs(300, limit=300))) == 300
    assert number_pairs(5, seed=1) == number_pairs(5, seed=1) != number_pairs(5, seed=2)
    with pytest.raises(ValueError, match="count"):
        number_pairs(11, limit=10)


def test_streamed_batches_go_on_line_by_line(tmp_path: Path) -> None:
    lines = [f"line {i} — né\n" * (i % 3) for i in range(60)]
    path = tmp_path / "text"
    path.write_text("".join(lines), encoding="utf-8")
    codec = Codec.of(path.read_text(encoding="utf-8"))
    batches = list(streamed_batches(path, codec, 3, 8))
    assert batches[0].x.shape == (3, 8)
    text = path.read_text(encoding="utf-8")
    for row in range(3):
        read = codec.decode(
            [*(n for b in batches for n in b.x[row].tolist()), int(batches[-1].y[row, -1])]
        )
        assert read in text and (row or text.startswith(read))
        assert text.index(read) == 0 or text[text.index(read) - 1] == "\n"
    for batch in batches:
        assert torch.equal(batch.x[:, 1:], batch.y[:, :-1])
    with pytest.raises(TextError, match="too short"):
        next(streamed_batches(path, codec, 3, 10_000))
    with pytest.raises(ValueError, match="num_steps"):
        next(streamed_batches(path, codec, 3, 0))


def test_lines_by_offset_part_a_file(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_text("é\n\nbcd\nef\n\nghijk", encoding="utf-8")
    whole = list(read_lines(path))
    size = path.stat().st_size
    for cut in range(size + 1):
        assert [*read_lines(path, 0, cut), *read_lines(path, cut, size)] == whole


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder and the address that serves it, on this machine only."""

    class Silent(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *arguments: object) -> None:
            pass

    folder = tmp_path / "served"
    folder.mkdir()
    handler = functools.partial(Silent, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as serving:
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{serving.server_port}"
        serving.shutdown()


def test_corpora_are_downloaded_once_and_checked(
    tmp_path: Path, server: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    served, address = server
    with zipfile.ZipFile(served / "data.zip", "w") as archive:
        archive.writestr("inside/words.txt", "a few words")
    sums = [
        hashlib.sha1(data).hexdigest()
        for data in ((served / "data.zip").read_bytes(), b"a few words")
    ]
    known = corpora.Corpus(
        f"{address}/data.zip", sums[0], "words.txt", sums[1], "inside/words.txt", "this test"
    )
    monkeypatch.setitem(corpora.CORPORA, "words", known)
    cache = tmp_path / "cache"
    assert corpus("words", cache).read_text() == "a few words"
    assert [path.name for path in cache.iterdir()] == ["words.txt"]
    (served / "data.zip").write_bytes(b"changed")
    assert corpus("words", cache) == cache / "words.txt"
    (cache / "words.txt").write_bytes(b"changed")
    with pytest.raises(TextError, match=f"expected a file of SHA-1 {sums[1]}"):
        corpus("words", cache)
    (cache / "words.txt").unlink()
    with pytest.raises(TextError, match=f"cannot be downloaded .*{sums[0]}.* FUSED_RNN_DATA"):
        corpus("words", cache)
    (served / "data.zip").unlink()
    with pytest.raises(TextError, match="cannot be downloaded .* FUSED_RNN_DATA"):
        corpus("words", cache)
    assert list(cache.iterdir()) == []
    with pytest.raises(ValueError, match="name: expected one of .* got 'shakespeare'"):
        corpus("shakespeare", cache)


def test_known_corpora_are_those_at_hand() -> None:
    folder = os.environ.get("FUSED_RNN_TEST_DATA")
    if not folder:
        pytest.skip("FUSED_RNN_TEST_DATA does not name a folder with the corpora")
    for name in ("time-machine", "fra-eng"):
        assert corpus(name, folder).parent == Path(folder)


def test_bleu_is_the_books() -> None:
    label = "A B C D E F"
    # The book's own example: p1 = 4/5, p2 = 3/4, p3 = 1/3, p4 = 0.
    prediction = "A B B C D"
    short = math.exp(1 - 6 / 5)
    p = (4 / 5, 3 / 4, 1 / 3)
    assert bleu(prediction, label, 1) == pytest.approx(short * p[0] ** 0.5)
    assert bleu(prediction, label) == pytest.approx(short * p[0] ** 0.5 * p[1] ** 0.25)
    assert bleu(prediction, label, 3) == pytest.approx(
        short * p[0] ** 0.5 * p[1] ** 0.25 * p[2] ** 0.125
    )
    assert bleu(prediction, label, 4) == 0
    assert bleu("il est riche .", "il est calme .") == pytest.approx(0.658, abs=5e-4)
    assert bleu("je suis en retard ?", "je suis chez moi .") == pytest.approx(0.447, abs=5e-4)
    assert bleu("va !", "va !") == 1 and bleu("a b c d", "a b") < 1
    assert bleu("va", "va", k=4) == 1 and bleu("va", "va !", k=4) == pytest.approx(math.exp(-1))
    assert bleu([], ["va"]) == 0 and bleu("", "va !") == 0
    assert bleu("", "") == bleu([], []) == bleu("", []) == bleu("va", "") == 0
    assert bleu(["a a a"], ["a"]) == 0 and bleu("a a", "a", 1) == pytest.approx(0.5**0.5)
    with pytest.raises(ValueError, match="k: expected at least 1, got 0"):
        bleu("a", "a", 0)
