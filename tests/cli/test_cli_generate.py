# SPDX-License-Identifier: MIT
"""`fused-rnn lm generate`: prefixes read as the model's text was, and text shown as it grows."""

import re
from pathlib import Path

import pytest

from fused_rnn.cli import writing
from fused_rnn.cli.main import main
from fused_rnn.seq2seq import load_language_model
from fused_rnn.text import Codec

TEXT = "The Cat sat on the mat. The dog sat on the log.\n" * 60
SMALL = ("--hidden-size=16", "--embedding-size=8", "--batch-size=4", "--num-steps=8", "--steps=60")


def trained(folder: Path, *options: str) -> str:
    (folder / "text").write_text(TEXT)
    out = str(folder / "model")
    learn = ["lm", "train", str(folder / "text"), "--out", out, "--learning-rate=0.02"]
    assert main([*learn, *SMALL, *options]) == 0
    return out


@pytest.mark.parametrize(
    "options, prefix, shown",
    [
        (("--normalization=book2",), "The CAT!", "the cat "),
        (("--normalization=book1", "--tokenizer=word"), "The CAT, sat", "the cat sat "),
        (("--tokenizer=word",), "The  Cat", "The Cat "),
        (("--tokenizer=space", "--normalization=book2"), " The  CAT", "the cat "),
        (("--tokenizer=subword", "--subwords=60"), "The Cat ", "The Cat "),
    ],
    ids=str,
)
def test_a_prefix_is_read_as_the_text_was(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: tuple[str, ...],
    prefix: str,
    shown: str,
) -> None:
    out = trained(tmp_path, *options)
    capsys.readouterr()
    assert main(["lm", "generate", out, "--prefix", prefix, "--length=9", "--temperature=0"]) == 0
    result = capsys.readouterr()
    assert result.err == "" and result.out.startswith(shown) and result.out.endswith("\n")
    codec = load_language_model(out).codec
    tokens = codec.split(result.out.removesuffix("\n"))
    assert codec.vocab.unread(tokens) == []


def test_subword_models_name_what_they_do_not_know(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = trained(tmp_path, "--tokenizer=subword", "--subwords=60")
    saved = load_language_model(out)
    assert saved.codec.decode(saved.codec.encode(TEXT).tolist()) == TEXT
    capsys.readouterr()
    assert main(["lm", "generate", out, "--prefix", "The 学 <unk>", "--length=3"]) == 0
    result = capsys.readouterr()
    assert "Read as <unk>, not in the vocabulary: ['<unk>', '学']" in result.err
    assert result.out.startswith("The 学 <unk>")


def test_samples_stop_and_filters(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = trained(tmp_path)
    generate = ["lm", "generate", out, "--prefix=The ", "--length=80"]

    def shown(*options: str) -> str:
        capsys.readouterr()
        assert main([*generate, *options]) == 0
        return capsys.readouterr().out

    several = shown("--samples=3", "--temperature=1.5")
    texts = re.split(r"^--- \d ---\n", several, flags=re.M)
    assert len(texts) == 4 and texts[0] == "" and len(set(texts[1:])) == 3
    assert several == shown("--samples=3", "--temperature=1.5") != shown("--samples=3", "--seed=5")
    likeliest = shown("--temperature=0")
    assert shown("--top-k=1") == shown("--top-p=1e-9", "--temperature=3") == likeliest
    whole = likeliest.removesuffix("\n")
    stop = whole[30:33]
    cut = shown("--temperature=0", "--stop", stop).removesuffix("\n")
    assert whole.startswith(cut + stop) and stop not in cut[len("The ") :]
    assert shown("--temperature=0", "--stop=never written") == likeliest
    assert shown("--length=0") == "The \n"
    hot = shown("--temperature=inf", "--length=400")
    assert "<unk>" not in hot and len(hot) == len("The ") + 400 + 1
    for wrong, message in [
        ("--samples=0", "--samples: expected at least 1, got 0"),
        ("--top-p=2", "top_p: expected more than 0"),
        ("--length=-1", "length: expected 0 or more"),
    ]:
        assert main([*generate, wrong]) == 1
        result = capsys.readouterr()
        assert message in result.err and result.out == ""


def test_what_has_been_written_stays_after_an_interruption(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = trained(tmp_path)
    add, counted = writing._Page.add, []

    def interrupted(page: writing._Page, number: int) -> bool:
        ended = add(page, number)
        counted.append(number)
        # As much as has been added is there to be read.
        if len(counted) == 7:
            raise KeyboardInterrupt
        return ended

    monkeypatch.setattr(writing._Page, "add", interrupted)
    capsys.readouterr()
    assert main(["lm", "generate", out, "--prefix=The ", "--stop=zz", "--length=80"]) == 130
    shown = capsys.readouterr().out
    assert len(shown) == len("The ") + 7 + 1 and shown.endswith("\n")


@pytest.mark.parametrize("stop", ["", "aab", "b", "xyz", "aa"])
@pytest.mark.parametrize("text", ["aabab", "aaab", "abab", "aaaa", "baab"])
def test_a_page_holds_back_only_what_may_be_the_stop(
    text: str, stop: str, capsys: pytest.CaptureFixture[str]
) -> None:
    codec = Codec.of("ab")
    page, expected = writing._Page(codec, ">", stop), ">"
    for length in range(1, len(text) + 1):
        place = text[:length].find(stop) if stop else -1
        assert page.add(codec.vocab[text[length - 1]]) == (place >= 0)
        expected += capsys.readouterr().out.removeprefix(">")
        if place >= 0:
            assert expected == ">" + text[:place]
            break
        held = text[len(expected) - 1 : length]
        assert expected == ">" + text[: length - len(held)]
        assert stop.startswith(held) and len(held) < max(1, len(stop))
    else:
        page.end()
        assert expected + capsys.readouterr().out == f">{text}\n"
