# SPDX-License-Identifier: MIT
"""Trainings that go on: as before, otherwise, elsewhere, and after they went wrong."""

import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from fused_rnn.cli import job as jobs
from fused_rnn.cli.main import main
from fused_rnn.seq2seq import load_language_model, load_translator
from fused_rnn.text import corpora, number_pairs

TEXT = "The cat sat on the mat. The dog sat on the log.\n" * 40
SIZES = ("--hidden-size=8", "--embedding-size=8")
PAIRS = number_pairs(60, limit=100)


def lines(pairs: Any) -> str:
    return "".join(f"{source}\t{target}\n" for source, target in pairs)


class Kind:
    """One of the two tools, with data of its kind."""

    def __init__(self, tool: str, folder: Path) -> None:
        self.tool, self.folder = tool, folder
        texts = [TEXT, TEXT[::-1], "A cat. A dog sat on a mat.\n"]
        if tool == "translate":
            texts = [lines(PAIRS[:40]), lines(PAIRS[20:50]), lines(PAIRS[50:])]
        for name, text in zip(("data", "other", "held"), texts, strict=True):
            (folder / name).write_text(text)

    def train(self, data: str, out: str, *options: str) -> int:
        sizes = ("--batch-size=4", *(("--num-steps=8",) if self.tool == "lm" else ()))
        tokens = ("--tokenizer=char", *(("--min-freq=0",) if self.tool == "translate" else ()))
        fresh = not any(option.startswith(("--resume", "--continue")) for option in options)
        given = (*SIZES, *tokens, *sizes) if fresh else ()
        places = (str(self.folder / data), "--out", str(self.folder / out))
        return main([self.tool, "train", *places, *given, *options])

    def load(self, out: str) -> Any:
        load = load_language_model if self.tool == "lm" else load_translator
        return load(self.folder / out)


@pytest.fixture(params=["lm", "translate"])
def kind(request: pytest.FixtureRequest, tmp_path: Path) -> Kind:
    return Kind(request.param, tmp_path)


def test_from_another_checkpoint(kind: Kind, capsys: pytest.CaptureFixture[str]) -> None:
    assert kind.train("data", "one", "--steps=6", "--learning-rate=0.02") == 0
    start = f"--continue-from={kind.folder / 'one'}"
    before = {path.name: path.read_bytes() for path in (kind.folder / "one").iterdir()}
    options = ("--steps=4", "--optimizer=sgd", "--dropout=0.3", "--validate-every=2")
    assert kind.train("other", "two", start, *options) == 0
    assert before == {path.name: path.read_bytes() for path in (kind.folder / "one").iterdir()}
    old, new = kind.load("one"), kind.load("two")
    assert new.position["step"] == 4 and new.options.optimizer == "sgd"
    # What was not said stays as it was.
    assert new.options.learning_rate == 0.02 and new.options.batch_size == 4
    assert new.model.config.dropout == 0.3 and old.model.config.hidden_size == 8
    codecs = ("codec",) if kind.tool == "lm" else ("source", "target")
    for name in codecs:
        assert getattr(new, name).vocab.tokens == getattr(old, name).vocab.tokens
    # Without a step to speak of, the weights are those it started from.
    assert kind.train("other", "three", start, "--steps=1", "--learning-rate=1e-30") == 0
    third = kind.load("three").model.state_dict()
    assert all(torch.equal(third[name], value) for name, value in old.model.state_dict().items())
    capsys.readouterr()
    for wrong, message in [
        (("two", start), "already holds a checkpoint"),
        (("four", start, "--hidden-size=16"), "--hidden-size: the checkpoint was made with 8"),
        (("four", start, "--tokenizer=word"), "--tokenizer: the checkpoint was made with char"),
        (("four", start, "--min-freq=7"), "--min-freq: the checkpoint was made with 0"),
        (("four", f"--continue-from={kind.folder}"), "found no checkpoint.json"),
    ]:
        assert kind.train("other", *wrong) == 1
        assert message in capsys.readouterr().err
        assert not (kind.folder / "four").exists()


def test_after_numbers_went_beyond_all_bounds(
    kind: Kind, capsys: pytest.CaptureFixture[str]
) -> None:
    wild = ("--learning-rate=1e38", "--optimizer=sgd", "--schedule=constant", "--steps=20")
    assert kind.train("data", "wild", *wild, "--save-every=1000") == 1
    shown = capsys.readouterr().err
    folder = kind.folder / "wild"
    assert "expected" in shown and "a lower learning rate may help" in shown
    assert f"{folder} holds step 0, from which --continue-from {folder} starts" in shown
    assert kind.load("wild").position["step"] == 0
    assert kind.train("data", "wild", "--resume", "--learning-rate=0.1") == 1
    assert "--continue-from goes on with other options" in capsys.readouterr().err
    tame = (f"--continue-from={folder}", "--learning-rate=0.01", "--steps=3")
    assert kind.train("data", "tame", *tame) == 0
    assert kind.load("tame").position["step"] == 3


def test_what_is_held_out_may_move_but_not_change(
    kind: Kind,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert kind.train("data", "out", "--validation=held", "--steps=3") == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    # By the path that was typed, wherever one is now.
    assert kind.train("data", "out", "--resume") == 0
    held = tmp_path / "held"
    moved = held.rename(tmp_path / "moved")
    capsys.readouterr()
    assert kind.train("data", "out", "--resume") == 1
    assert f"--validation: No such file: {held}" in capsys.readouterr().err
    again = ("--resume", f"--validation={moved}")
    assert kind.train("data", "out", *again) == 0
    moved.write_text(moved.read_text() * 2)
    capsys.readouterr()
    assert kind.train("data", "out", *again) == 1
    assert "expected what the checkpoint held out, got something else" in capsys.readouterr().err


def test_what_is_held_out_may_come_from_a_pipe(kind: Kind) -> None:
    reading, writing = os.pipe()
    os.write(writing, (kind.folder / "held").read_bytes())
    os.close(writing)
    held = f"--validation=/dev/fd/{reading}"
    assert kind.train("data", "out", held, "--steps=3") == 0
    os.close(reading)
    again = ("--resume", f"--validation={kind.folder / 'held'}")
    assert kind.train("data", "out", *again) == 0


def test_the_end_of_a_text_is_part_of_what_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kind = Kind("lm", tmp_path)
    assert kind.train("data", "out", "--steps=3") == 0
    (tmp_path / "data").write_text(TEXT[:-9] + TEXT[:9])
    capsys.readouterr()
    assert kind.train("data", "out", "--resume") == 1
    assert "expected what the checkpoint held out" in capsys.readouterr().err


def test_a_log_of_the_losses(kind: Kind, capsys: pytest.CaptureFixture[str]) -> None:
    log = kind.folder / "log.csv"
    more = ("--accumulate=2", "--schedule=plateau", "--optimizer=adamw", "--label-smoothing=0.1")
    more = (*more, "--average=2")
    assert kind.train("data", "out", "--steps=5", "--validate-every=2", f"--log={log}", *more) == 0
    rows = [line.split(",") for line in log.read_text().splitlines()]
    assert rows[0] == ["step", "loss", "held_out_loss"] and len(rows) == 6
    saved = kind.load("out")
    assert [float(row[1]) for row in rows[1:]] == saved.tensors["losses"].tolist()
    held = {int(row[0]): float(row[2]) for row in rows[1:] if row[2]}
    assert held == dict(saved.position["validations"]) and set(held) == {2, 4, 5}
    wrong = kind.folder / "absent" / "log.csv"
    assert kind.train("data", "other-out", "--steps=5", f"--log={wrong}") == 1
    assert str(wrong) in capsys.readouterr().err
    # Nothing stands in the way of the same command with another place.
    assert not (kind.folder / "other-out" / "checkpoint.json").exists()


@pytest.mark.parametrize("missing", ["matplotlib", "tqdm", "safetensors"])
def test_what_is_needed_is_asked_for_first(
    kind: Kind, missing: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    assert kind.train("data", "out", "--steps=3") == 1
    shown = capsys.readouterr()
    assert f"No module named '{missing}'" in shown.err and "fused_rnn[app]" in shown.err
    assert shown.out == "" and not (kind.folder / "out").exists()


def test_a_picture_that_cannot_be_drawn_costs_no_training(
    kind: Kind, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (kind.folder / "out" / "curves.png").mkdir(parents=True)
    assert kind.train("data", "out", "--steps=3") == 1
    shown = capsys.readouterr()
    assert "curves.png" in shown.err and "Held-out" not in shown.out
    assert kind.load("out").position["step"] == 0
    # Whatever else goes wrong with it, the result is told before.
    (kind.folder / "out" / "curves.png").rmdir()
    module = sys.modules[f"fused_rnn.cli.{kind.tool}"]

    def fail(*arguments: object) -> None:
        raise OSError("no room for a picture")

    monkeypatch.setattr(module, "draw_training", fail)
    assert kind.train("data", "out", "--resume") == 1
    shown = capsys.readouterr()
    assert "Held-out perplexity" in shown.out and "no room for a picture" in shown.err


def test_words_spelt_like_control_tokens(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text").write_text("bonjour <eos> monde\n" * 40)
    (tmp_path / "pairs").write_text("a b\tbonjour <eos> monde\nb a\tmonde <pad> bonjour\n" * 9)
    train = ["--tokenizer=word", "--min-freq=0", *SIZES, "--batch-size=2", "--steps=2"]
    for tool, data, word in (("lm", "text", "<eos>"), ("translate", "pairs", "<pad>")):
        more = ("--num-steps=8",) if tool == "lm" else ("--held-out=0.5",)
        places = [tool, "train", str(tmp_path / data), "--out", str(tmp_path / tool)]
        assert main([*places, *train, *more]) == 0
        shown = capsys.readouterr().err
        warning = next(line for line in shown.splitlines() if "warning" in line)
        assert warning.startswith("fused-rnn: warning: the text holds tokens spelt like control")
        assert word in warning or tool == "translate"


def test_words_that_training_never_saw(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without `<unk>` in training, what it costs is left out, and said so."""
    kind, out = Kind("lm", tmp_path), str(tmp_path / "out")
    (tmp_path / "data").write_text(TEXT.replace("\n", " ") + "rare " + "the cat sat on " * 40)
    words = ("--tokenizer=word", "--held-out=0.3", "--steps=40", "--learning-rate=0.02")
    (tmp_path / "strange").write_text("The cat sat on xyzzy mat. the dog")
    assert kind.train("data", "out", *words) == 0
    assert main(["lm", "evaluate", out, str(tmp_path / "strange")]) == 0
    shown = capsys.readouterr().out
    assert shown.rstrip().endswith("read as <unk>, not counted as the model knows none")
    assert "over 6 tokens; 1 tokens" in shown
    assert "these, 1 are outside the vocabulary of 9 and read as <unk>, not counted" in shown
    assert not load_language_model(out).knows_unknown
    assert kind.train("data", "known", *words, "--min-freq=2", "--held-out=0.05") == 0
    assert main(["lm", "evaluate", str(tmp_path / "known"), str(tmp_path / "strange")]) == 0
    shown = capsys.readouterr().out
    assert "over 7 tokens; 1 tokens" in shown and "not counted" not in shown
    (tmp_path / "nothing").write_text("xyzzy plugh")
    assert main(["lm", "evaluate", out, str(tmp_path / "nothing")]) == 1
    assert "expected tokens of the vocabulary, got none" in capsys.readouterr().err


def test_checkpoints_of_looks(kind: Kind, capsys: pytest.CaptureFixture[str]) -> None:
    keep = ("--keep-best", "--keep-last=2", "--validate-every=2", f"--log={kind.folder / 'log'}")
    kept = ("--steps=11", "--learning-rate=0.3", "--average=2", *keep)
    assert kind.train("data", "out", *kept) == 0
    out = kind.folder / "out"
    names = {path.name for path in out.iterdir() if path.is_dir()}
    assert names == {"best", "step-10", "step-11"}
    looks = {
        int(step): float(loss)
        for step, _, loss in (row.split(",") for row in (kind.folder / "log").read_text().split())
        if loss and step != "step"
    }
    assert set(looks) == {2, 4, 6, 8, 10, 11}
    best = kind.load("out/best")
    assert best.position["step"] == min(looks, key=looks.__getitem__)
    last = [kind.load(f"out/step-{step}").model.state_dict() for step in (10, 11)]
    for name, mean in kind.load("out").model.state_dict().items():
        assert torch.equal(mean, torch.stack([own[name] for own in last]).mean(0))
    # Each is a checkpoint like any other: a training goes on from it.
    start = f"--continue-from={out / 'best'}"
    assert kind.train("data", "next", start, "--steps=1") == 0
    assert kind.train("data", "bad", "--steps=1", "--keep-last=-1") == 1
    assert "--keep-last: expected 0 or more, got -1" in capsys.readouterr().err


def test_texts_known_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Kind("lm", tmp_path)
    here = hashlib.sha1(TEXT.encode()).hexdigest()
    for name in jobs.TEXTS:
        known = corpora.CORPORA[name]._replace(file="data", file_sha1=here)
        monkeypatch.setitem(corpora.CORPORA, name, known)
    monkeypatch.setattr(corpora, "FOLDER", tmp_path)
    monkeypatch.chdir(tmp_path)
    for name in jobs.TEXTS:
        places = ["lm", "train", name, "--out", name + "-out", "--steps=2"]
        assert main([*places, *SIZES, "--batch-size=4", "--num-steps=8"]) == 0
        assert "1,728 tokens to train on, 192 held out" in capsys.readouterr().out


def test_streamed_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kind = Kind("lm", tmp_path)
    stream = ("--stream", f"--validation={tmp_path / 'held'}", "--validate-every=4")
    for tokens in (("--tokenizer=word",), ("--tokenizer=subword", "--subwords=40")):
        for out in ("whole", "parts"):
            assert kind.train("data", f"{tokens[0]}-{out}", *stream, *tokens, "--steps=9") == 0
        assert "a stream of tokens to train on" in capsys.readouterr().out
        folders = [tmp_path / f"{tokens[0]}-{out}" for out in ("whole", "parts")]
        digests = [json.loads((f / "checkpoint.json").read_text())["sha256"] for f in folders]
        assert digests[0] == digests[1]
    assert kind.train("data", "a", *stream, "--sampling=random") == 1
    assert "sampling: expected 'sequential' for a stream" in capsys.readouterr().err
    assert kind.train("data", "a", "--stream") == 1
    assert "--stream: expected --validation with it" in capsys.readouterr().err
    assert not (tmp_path / "a").exists()
