# SPDX-License-Identifier: MIT
"""`fused-rnn translate run` and `evaluate`: any input, as it comes, with every option."""

import io
import json
import math
import os
import select
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import fused_rnn
from fused_rnn.cli.main import main
from fused_rnn.cli.searches import as_json
from fused_rnn.seq2seq import (
    Options,
    Translator,
    TranslatorConfig,
    TranslatorTraining,
    save_translator,
    train,
)
from fused_rnn.text import RESERVED, Codec, Pairs, number_pairs

PAIRS = number_pairs(80, limit=100)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a translator of words that has learnt something."""
    folder = tmp_path_factory.mktemp("model")
    codecs = [
        Codec.learn(side, tokenizer="space", reserved=RESERVED) for side in zip(*PAIRS, strict=True)
    ]
    torch.manual_seed(0)
    config = TranslatorConfig(
        source_vocab_size=len(codecs[0].vocab),
        target_vocab_size=len(codecs[1].vocab),
        hidden_size=32,
        embedding_size=16,
        outer_dropout=0.0,
    )
    data = Pairs(PAIRS, *codecs)
    options = Options(steps=150, batch_size=16, learning_rate=0.02)
    trainer = TranslatorTraining(Translator(config), data, codecs[1].vocab.bos, options)
    train(trainer, data, save=lambda: save_translator(folder, *codecs, trainer, {}))
    return str(folder)


def say(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


def test_blank_lines_and_spaces(
    model: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = []
    for data in (b"\n twenty-one  \n   \nsix", b"\n\xef\xbb\xbftwenty-one\r\rsix\r"):
        say(monkeypatch, data.replace(b"\xef\xbb\xbf", b""))
        assert main(["translate", "run", model]) == 0
        result = capsys.readouterr()
        assert result.err == ""
        shown.append(result.out.split("\n"))
    assert shown[0] == shown[1] and [bool(line) for line in shown[0]] == [False, True] * 2 + [False]
    # A mark at the beginning is none of the first word.
    say(monkeypatch, b"\xef\xbb\xbfsix\n")
    assert main(["translate", "run", model]) == 0
    result = capsys.readouterr()
    assert result.err == "" and result.out == shown[0][3] + "\n"
    say(monkeypatch, b"six\n\nsix\n")
    assert main(["translate", "run", model, "--n-best=3"]) == 0
    lines = capsys.readouterr().out.split("\n")
    assert len(lines) == 8 and lines[3] == "" and lines[:3] == lines[4:7]


@pytest.mark.parametrize("options", [(), ("--length-penalty=1.5",), ("--sample", "--seed=3")])
def test_any_size_of_batch(
    model: str,
    options: tuple[str, ...],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = "".join(f"{pair.source} {' and ' * (i % 5)}\n" for i, pair in enumerate(PAIRS))
    found = []
    for size in ("1", "32"):
        say(monkeypatch, data.encode())
        assert main(["translate", "run", model, "--batch-size", size, *options]) == 0
        found.append(capsys.readouterr().out)
    assert found[0] == found[1] and found[0].count("\n") == 80


def test_the_constraints_of_the_search(
    model: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def shown(*options: str, line: str = "twenty-one") -> str:
        say(monkeypatch, line.encode())
        capsys.readouterr()
        assert main(["translate", "run", model, *options]) == 0
        return capsys.readouterr().out.removesuffix("\n")

    assert shown("--prefix=vingt").startswith("vingt")
    plain = shown().split(" ")
    assert plain[0] not in shown("--ban", plain[0], "--ban=un").split(" ")
    long = shown("--min-length=9", "--max-length=10", "--no-repeat-ngram=1").split(" ")
    assert 8 <= len(long) == len(set(long))
    assert shown("--max-length=1000000000", "--beam-size=1").split(" ")
    assert shown("--max-length=1000000000", "--length-penalty=0").split(" ")
    # The divisor of so long a translation makes every hypothesis look promising, for ever.
    assert main(["translate", "run", model, "--max-length=1000000000"]) == 1
    assert "expected at most 10,000 with stop 'exact'" in capsys.readouterr().err
    drawn = ["--sample", "--temperature=3", "--n-best=2"]
    assert shown(*drawn) == shown(*drawn) != shown(*drawn, "--seed=1")
    assert shown("--sample", "--top-k=1") == shown("--beam-size=1")
    assert shown("--sample", "--top-p=1e-9") == shown("--sample", "--temperature=0")
    for option in ("--normalization=none", "--normalization=gnmt", "--stop=k"):
        assert shown(option)
    copied = json.loads(shown("--replace-unknown", "--json", line="Ada twenty"))["candidates"][0]
    assert set(copied["tokens"]) - {"Ada", "twenty"} and "<unk>" not in copied["tokens"]
    score = json.loads(shown("--normalization=none", "--json"))["candidates"][0]
    assert score["score"] == score["log_prob"]


def test_several_models_as_one(
    model: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def shown(*options: str) -> str:
        say(monkeypatch, b"six\ntwenty-one\n")
        capsys.readouterr()
        assert main(["translate", "run", model, "--json", *options]) == 0
        return capsys.readouterr().out

    alone = [json.loads(line)["candidates"][0] for line in shown().splitlines()]
    twice = [json.loads(line)["candidates"][0] for line in shown("--with", model).splitlines()]
    for one, other in zip(alone, twice, strict=True):
        assert one["tokens"] == other["tokens"]
        assert one["log_prob"] == pytest.approx(other["log_prob"], abs=1e-4)
    pairs = tmp_path / "pairs"
    pairs.write_text("".join(f"{pair.source}\t{pair.target}\n" for pair in PAIRS))
    strange = str(tmp_path / "strange")
    sizes = ("--hidden-size=8", "--embedding-size=8", "--steps=1", "--min-freq=0")
    assert main(["translate", "train", str(pairs), "--out", strange, *sizes]) == 0
    assert main(["translate", "run", model, "--with", strange]) == 1
    assert "--with: expected the source vocabulary of" in capsys.readouterr().err


def test_several_references_from_files_of_lines(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [tmp_path / name for name in ("source", "one", "two", "pairs")]
    texts = [[pair.source for pair in PAIRS[:9]], [pair.target for pair in PAIRS[:9]], ["x y"] * 9]
    for file, lines in zip(files, texts, strict=False):
        file.write_text("\n".join(lines))
    files[3].write_text("".join(f"{pair.source}\t{pair.target}\n" for pair in PAIRS[:9]))
    evaluate = ["translate", "evaluate", model, "--json"]
    references = [f"--target={file}" for file in files[1:3]]
    figures = []
    for given in ([files[3]], [files[0], references[0]], [files[0], *references]):
        assert main([*evaluate, *map(str, given)]) == 0
        figures.append(json.loads(capsys.readouterr().out))
    assert figures[0] == figures[1] and figures[0]["unknown"] == [0, 0]
    assert figures[2]["pairs"] == 18 and figures[2]["sentences"] == 9
    assert figures[2]["unknown"] == [0, 18] and figures[2]["chrf"] >= figures[1]["chrf"] - 1e-9
    assert main(["translate", "evaluate", model, str(files[0]), *references]) == 0
    assert "0 source and 18 target tokens are outside the vocab" in capsys.readouterr().out


def test_figures_that_json_has_no_word_for() -> None:
    figures = {"perplexity": math.inf, "looks": [[0.5, math.nan], (1, "é")], "unknown": 3}
    shown = as_json(figures)
    assert shown == '{"perplexity": null, "looks": [[0.5, null], [1, "é"]], "unknown": 3}'


def test_scores_are_those_of_the_search(
    model: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sentences = [pair.source for pair in PAIRS[:7]]
    say(monkeypatch, "\n".join(sentences).encode())
    assert main(["translate", "run", model, "--json"]) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    best = [one["candidates"][0] for one in found]
    pairs = tmp_path / "pairs"
    pairs.write_text("".join(f"{s}\t{c['text']}\n" for s, c in zip(sentences, best, strict=True)))
    for size in ("1", "32"):
        score = ["translate", "score", model, str(pairs), "--batch-size", size]
        assert main([*score, "--json"]) == 0
        scored = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        for one, other in zip(scored, best, strict=True):
            assert one["tokens"] == other["tokens"]
            assert one["score"] == pytest.approx(other["score"], rel=1e-5)
            assert math.fsum(one["token_log_probs"]) == pytest.approx(one["log_prob"], rel=1e-5)
    (tmp_path / "source").write_text("\n".join(sentences))
    (tmp_path / "target").write_text("un xyzzy\n" * 7)
    files = [str(tmp_path / "source"), f"--target={tmp_path / 'target'}"]
    assert main(["translate", "score", model, *files]) == 0
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [line[1:] for line in lines] == [[sentence, "un xyzzy"] for sentence in sentences]
    assert all(float(line[0]) < one["score"] for line, one in zip(lines, best, strict=True))


@pytest.mark.parametrize(
    "missing, arguments",
    [
        ("matplotlib", ["run", "--attention=look.png"]),
        ("sacrebleu", ["evaluate", "pairs"]),
        ("safetensors", ["run"]),
    ],
)
def test_packages_are_asked_for_first(
    model: str,
    missing: str,
    arguments: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    say(monkeypatch, b"six\n")
    assert main(["translate", arguments[0], model, *arguments[1:]]) == 1
    result = capsys.readouterr()
    assert f"No module named '{missing}'" in result.err and result.out == ""


def test_a_picture_is_tried_first(
    model: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    say(monkeypatch, b"six\n")
    for place in (tmp_path / "absent" / "x.png", tmp_path):
        assert main(["translate", "run", model, "--attention", str(place)]) == 1
        result = capsys.readouterr()
        assert str(place) in result.err and result.out == ""


def spawn(model: str, *options: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "fused_rnn", "translate", "run", model, *options]
    places = {"PYTHONPATH": str(Path(fused_rnn.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, bufsize=0, env={**os.environ, **places}, **pipes)


@pytest.mark.skipif(os.name != "posix", reason="waits for a pipe with select")
def test_each_line_is_answered_when_it_is_there(model: str) -> None:
    with spawn(model) as process:
        answers = []
        for line in (b"six\n", b"twenty-one\nsix\n"):
            process.stdin.write(line)
            process.stdin.flush()
            for _ in range(line.count(b"\n")):
                assert select.select([process.stdout], [], [], 120)[0], "no answer"
                answers.append(process.stdout.readline())
        process.stdin.close()
        assert process.stdout.read() == b"" and process.wait(60) == 0
    assert answers[0] == answers[2] != b"\n"


@pytest.mark.skipif(os.name != "posix", reason="needs pipes that break")
def test_a_reader_that_has_enough_is_no_error(model: str) -> None:
    with spawn(model) as process:
        process.stdin.write(b"six\n")
        process.stdin.flush()
        assert process.stdout.readline() != b"\n"
        process.stdout.close()
        process.stdin.write(b"six\n" * 50)
        process.stdin.close()
        assert (process.wait(60), process.stderr.read()) == (0, b"")


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    shown = capsys.readouterr().out
    assert ended.value.code == 0 and shown.startswith("fused_rnn ") and torch.__version__ in shown
