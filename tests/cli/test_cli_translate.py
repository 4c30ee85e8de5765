# SPDX-License-Identifier: MIT
"""`fused-rnn translate`: from a pairs file to translations, and every way to fail."""

import io
import json
import math
import re
import sys
from pathlib import Path

import pytest
import torch

from fused_rnn.cli.main import main
from fused_rnn.seq2seq import evaluate_translator, load_translator
from fused_rnn.text import Pairs, number_pairs, read_pairs

PAIRS = number_pairs(100, limit=100)
SMALL = (
    "--tokenizer=char",
    "--min-freq=0",
    "--hidden-size=48",
    "--embedding-size=32",
    "--outer-dropout=0",
    "--learning-rate=0.015",
    "--held-out=0.05",
    "--validate-every=50",
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "pairs.txt"
    path.write_text("".join(f"{s}\t{t}\n" for s, t in PAIRS), encoding="utf-8")
    return path


def say(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_train_run_evaluate(
    tmp_path: Path,
    file: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = str(tmp_path / "model")
    assert main(["translate", "train", str(file), "--out", out, "--steps=220", *SMALL]) == 0
    trained = capsys.readouterr()
    assert "Pairs: 95 to train on, 5 held out; 0 are cut to 60 tokens" in trained.out
    shown = re.search(r"Held-out perplexity ([\d.]+) a token", trained.out)
    assert shown and float(shown[1]) < 5 and "held-out perplexity=" in trained.err
    assert (tmp_path / "model" / "curves.png").read_bytes().startswith(b"\x89PNG")

    run = ["translate", "run", out]
    known = [pair for pair in PAIRS if len(pair.source) > 5][:4]
    say(monkeypatch, "".join(f"{pair.source}\n" for pair in known).encode() + b"\n \n!seven\n")
    picture = tmp_path / "look.png"
    assert main([*run, "--attention", str(picture)]) == 0
    result = capsys.readouterr()
    lines = result.out.split("\n")
    assert len(lines) == 8 and lines[4:6] == ["", ""] and lines[7] == ""
    assert sum(line == pair.target for line, pair in zip(lines, known, strict=False)) >= 3
    assert "line 7: 1 of 6 tokens are not in the vocabulary and read as <unk>" in result.err
    assert picture.read_bytes().startswith(b"\x89PNG")

    for size in ("1", "4"):
        say(monkeypatch, known[0].source.encode())
        assert main([*run, "--beam-size", size, "--json"]) == 0
        one = json.loads(capsys.readouterr().out)
        assert one["source"] == known[0].source and len(one["candidates"]) == 1
        best = one["candidates"][0]
        assert math.fsum(best["token_log_probs"]) == pytest.approx(best["log_prob"], rel=1e-5)
    say(monkeypatch, known[0].source.encode() + b"\n")
    assert main([*run, "--n-best", "3"]) == 0
    ranked = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [rank for rank, *_ in ranked] == ["1", "2", "3"]
    scores = [float(score) for _, score, _ in ranked]
    assert scores == sorted(scores, reverse=True) and len({text for *_, text in ranked}) == 3
    say(monkeypatch, known[0].source.encode())
    assert main([*run, "--max-length", "2"]) == 0
    cut = capsys.readouterr()
    assert len(cut.out.strip()) == 2 and "line 1: the translation was cut at 2 tokens" in cut.err

    assert main(["translate", "evaluate", out, str(file), "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    saved = load_translator(out)
    pairs = Pairs(read_pairs(file), saved.source, saved.target)
    expected = evaluate_translator(saved.model, pairs, saved.target.vocab.bos).perplexity
    assert figures["perplexity"] == expected and figures["pairs"] == figures["sentences"] == 100
    assert 0.7 < figures["book_bleu"] <= 1 and 70 < figures["chrf"] <= 100
    assert main(["translate", "evaluate", out, str(file), "--beam-size=1"]) == 0
    text = capsys.readouterr().out
    assert "The book's BLEU" in text and "of 100 sentences with 100 references" in text


@pytest.mark.parametrize(
    "options",
    [
        ("--tokenizer=subword", "--subwords=40", "--cell=lstm", "--num-layers=2"),
        ("--tokenizer=word", "--attention=none", "--no-bidirectional", "--patience=1"),
        ("--tokenizer=space", "--normalization=book-pairs", "--attend=before", "--num-steps=3"),
        ("--precision=bfloat16", "--embedding-size=16", "--tied", "--cell=rnn_tanh"),
        ("--shared-vocabulary", "--embedding-size=16", "--tied", "--shared-embedding"),
        ("--batch-tokens=200", "--tokenizer=char", "--accumulate=2"),
    ],
    ids=lambda options: options[0],
)
def test_resumed_training_ends_the_same(
    tmp_path: Path, file: Path, options: tuple[str, ...]
) -> None:
    train = ["translate", "train", str(file), "--hidden-size=16", "--min-freq=0", *options]
    train += ["--validate-every=4", "--batch-size=8"]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert main([*train, "--out", str(whole), "--steps=10"]) == 0

    from fused_rnn.cli import job as jobs

    calls: list[int] = []

    class Asked:
        def is_set(self) -> bool:
            calls.append(1)
            return len(calls) > 5

    class Interruption:
        def __enter__(self) -> Asked:
            return Asked()

        def __exit__(self, *error: object) -> None:
            pass

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jobs, "interruption", Interruption)
        assert main([*train, "--out", str(parts), "--steps=10"]) == 130
    assert load_translator(parts).position["step"] == 5
    torch.manual_seed(7)
    assert main([*train, "--out", str(parts), "--resume"]) == 0
    digests = [json.loads((f / "checkpoint.json").read_text())["sha256"] for f in (whole, parts)]
    assert digests[0] == digests[1]


def test_training_ends_by_bleu(tmp_path: Path, file: Path) -> None:
    out = tmp_path / "out"
    options = ("--stop-on=bleu", "--patience=2", "--steps=60", *SMALL, "--validate-every=5")
    assert main(["translate", "train", str(file), "--out", str(out), *options]) == 0
    position = load_translator(out).position
    figures, losses = position["figures"], [loss for _, loss in position["validations"]]
    # Short sentences of an untrained model: no four words are right, and no look gets better.
    assert figures == [100.0] * 3 and losses[0] > losses[1] > losses[2]
    assert position["step"] == 15
    assert main(["translate", "train", str(file), "--out", str(out), "--resume"]) == 0


def test_one_vocabulary_and_one_embedding(tmp_path: Path, file: Path) -> None:
    out = tmp_path / "out"
    options = ("--shared-vocabulary", "--shared-embedding", "--steps=3", *SMALL)
    assert main(["translate", "train", str(file), "--out", str(out), *options]) == 0
    saved = load_translator(out)
    assert saved.source.vocab.tokens == saved.target.vocab.tokens
    assert set("".join(side for pair in PAIRS[:90] for side in pair)) >= set("zéx")
    assert all(letter in saved.source.vocab for letter in "zéx")
    model = saved.model
    assert model.encoder.embedding.weight is model.decoder.embedding.weight
    apart = tmp_path / "apart"
    options = ("--shared-embedding", *SMALL)
    assert main(["translate", "train", str(file), "--out", str(apart), *options]) == 1


def test_streamed_training(tmp_path: Path, file: Path) -> None:
    held = tmp_path / "held"
    held.write_text("one\tun\ntwo\tdeux\n")
    options = ("--stream", "--validation", str(held), "--steps=5", *SMALL)
    out = tmp_path / "out"
    assert main(["translate", "train", str(file), "--out", str(out), *options]) == 0
    assert load_translator(out).position["step"] == 5


def test_number_words_need_no_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "out")
    options = ("--steps=2", "--hidden-size=8", "--embedding-size=8", "--held-out=0.0001")
    assert main(["translate", "train", "numbers", "--out", out, *options]) == 0
    assert "Pairs: 19,998 to train on, 2 held out" in capsys.readouterr().out


@pytest.mark.parametrize(
    "data, options, message",
    [
        (None, (), "No such file"),
        (b"", (), "expected sentence pairs, got a file with none"),
        (b"\n\n", (), "expected sentence pairs, got a file with none"),
        (b"a\tb\nc\n", (), "line 2: expected two sentences with a tab between them, got 'c'"),
        (b"a\t \n", (), "line 1: expected two sentences"),
        (b"a\tb\nc\t\xff\n", (), "expected UTF-8 text, got byte 0xff"),
        (b"a\tb\na\tc\n", (), "too short, expected at least 2 distinct source sentences"),
        (b"a\tb\nc\td\n", ("--held-out=1",), "held_out: expected between 0 and 1"),
        (b"a\tb\nc\td\n", ("--num-steps=0",), "num_steps: expected at least 1"),
        (b"a\tb\nc\td\n", ("--stream",), "--stream: expected --validation with it"),
        (b"a\tb\nc\td\n", ("--attention=dot", "--min-freq=0"), "'general' takes any"),
        (b"a\tb\nc\td\n", (), "expected source tokens seen at least 2 times, got none"),
        (b"a\tb\nc\tb\na\td", ("--held-out=0.4",), "expected target tokens seen at least 2 times"),
        (b"a\tb\nc\td\n", ("--steps=0",), "steps: expected at least 1, got 0"),
        (b"a\tb\nc\td\n", ("--save-every=0",), "--save-every: expected at least 1, got 0"),
        (b"a\tb\nc\td\n", ("--resume",), "expected a checkpoint, found no checkpoint.json"),
        (b"a\tb\nc\td\n", ("--validation=/absent",), "No such file"),
    ],
)
def test_bad_training_input(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    data: bytes | None,
    options: tuple[str, ...],
    message: str,
) -> None:
    path, out = tmp_path / "pairs", tmp_path / "out"
    if data is not None:
        path.write_bytes(data)
    assert main(["translate", "train", str(path), "--out", str(out), *options]) == 1
    error = capsys.readouterr().err
    assert error.startswith("fused-rnn: error: ") and message in error and error.count("\n") == 1
    assert not out.exists()


def test_bad_running_input(
    tmp_path: Path,
    file: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out, text = tmp_path / "out", tmp_path / "text"
    train = ["translate", "train", str(file), "--out", str(out), "--attention=none"]
    assert main([*train, "--steps=2", *SMALL]) == 0
    text.write_text("The cat sat on the mat. " * 60)
    model = str(tmp_path / "lm")
    sizes = ("--hidden-size=8", "--batch-size=2", "--num-steps=8", "--steps=2")
    assert main(["lm", "train", str(text), "--out", model, *sizes]) == 0
    (tmp_path / "one-sided").write_text("a\n")
    other = tmp_path / "other"
    other.write_text("a\tb\nc\td\n")
    run = ["translate", "run", str(out)]
    before = files(tmp_path)
    for arguments, message in [
        (train, "already holds a checkpoint"),
        ([*train, "--resume", "--hidden-size=32"], "the checkpoint was made with 48, got 32"),
        ([*train, "--resume", "--num-steps=9"], "the checkpoint was made with 60, got 9"),
        ([*train[:2], str(other), *train[3:], "--resume"], "expected the text that the checkpoint"),
        ([*run, "--attention", "x.png"], "--attention: expected a model with attention"),
        ([*run, "--replace-unknown"], "--replace-unknown: expected a model with attention"),
        ([*run, "--beam-size=0"], "beam_size: expected at least 1, got 0"),
        ([*run, "--n-best=9"], "n_best: expected 1 to beam_size 5, got 9"),
        ([*run, "--max-length=0"], "max_length: expected at least 1, got 0"),
        ([*run, "--batch-size=0"], "--batch-size: expected at least 1, got 0"),
        ([*run, "--length-penalty=1000"], "length_penalty: expected one for which float32"),
        ([*run, "--length-penalty=nan"], "length_penalty: expected a finite number, got nan"),
        ([*run, "--top-k=3"], "--top-k: expected --sample with it"),
        ([*run, "--prefix=学"], "prefix: expected tokens of the target's vocabulary, got ['学']"),
        ([*run, "--ban=un deux"], "ban: expected tokens of the target's vocabulary, got"),
        ([*run, "--min-length=-1"], "min_length: expected 0 to max_length"),
        (["translate", "run", model], "expected one of a translator, got 'language model'"),
        (["translate", "run", str(tmp_path)], "found no checkpoint.json"),
        (["lm", "generate", str(out), "--prefix=a"], "expected one of a language model"),
        (["translate", "evaluate", str(out), str(tmp_path / "one-sided")], "line 1: expected two"),
    ]:
        capsys.readouterr()
        say(monkeypatch, b"one\n")
        assert main(arguments) == 1, arguments
        assert message in capsys.readouterr().err
        assert files(tmp_path) == before
    say(monkeypatch, b"one\n\xff\n")
    assert main(run) == 1
    assert "standard input, line 2: expected UTF-8 text" in capsys.readouterr().err
