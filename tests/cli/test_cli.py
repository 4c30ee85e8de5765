# SPDX-License-Identifier: MIT
"""`fused-rnn lm`: the whole way from a text file to generated text, and every way to fail."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import fused_rnn
from fused_rnn.cli.main import main
from fused_rnn.seq2seq import evaluate, load_language_model
from fused_rnn.text import read_text

# Written for this test.
CHINESE = (
    "春天来了，河边的柳树发芽了。小鸟在树上唱歌，孩子们在河边放风筝。\n"
    "夏天来了，河里的荷花开了。小鱼在水里游泳，孩子们在河边捉蜻蜓。\n"
    "秋天来了，山上的枫叶红了。小松鼠在树下找果子，孩子们在山上看风景。\n"
    "冬天来了，山上的雪花落了。小兔子在雪里睡觉，孩子们在山上堆雪人。\n"
) * 30
SMALL = ("--hidden-size=16", "--embedding-size=8", "--batch-size=4", "--num-steps=8")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(CHINESE, encoding="utf-8")
    return path


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_train_generate_evaluate(
    tmp_path: Path, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "model")
    options = ("--hidden-size=48", "--batch-size=8", "--num-steps=24", "--learning-rate=0.02")
    assert main(["lm", "train", str(file), "--out", out, "--steps=150", *options]) == 0
    trained = capsys.readouterr()
    shown = re.search(r"Held-out perplexity ([\d.]+) over", trained.out)
    assert shown and float(shown[1]) < 1.5
    assert "outside the vocabulary" in trained.out and "150 steps of 8 x 24" in trained.out
    assert "held-out perplexity=" in trained.err
    assert (tmp_path / "model" / "curves.png").read_bytes().startswith(b"\x89PNG")

    generate = ["lm", "generate", out, "--prefix", "春天", "--length", "60"]
    assert main([*generate, "--temperature", "0"]) == 0
    written = capsys.readouterr().out.rstrip("\n")
    assert written.startswith("春天来了，河边的柳树发芽了。") and len(written) == 62
    drawn = []
    for seed in ("3", "3", "4"):
        assert main([*generate, "--temperature", "1.5", "--seed", seed]) == 0
        drawn.append(capsys.readouterr().out)
    assert drawn[0] == drawn[1] != drawn[2]
    assert main([*generate, "--prefix", "Q春"]) == 0
    assert "Read as <unk>, not in the vocabulary: ['Q']" in capsys.readouterr().err

    assert main(["lm", "evaluate", out, str(file)]) == 0
    shown = re.search(
        r"Perplexity ([\d.]+) over ([\d,]+) tokens; 0 tokens", capsys.readouterr().out
    )
    saved = load_language_model(out)
    expected = evaluate(saved.model, saved.codec.encode(read_text(file)))
    assert shown and float(shown[1]) == pytest.approx(expected.perplexity, abs=1e-3)
    (tmp_path / "other").write_text("春天 was here, 河边!\n")
    assert main(["lm", "evaluate", out, str(tmp_path / "other")]) == 0
    assert re.search("; 12 tokens of the text are outside", capsys.readouterr().out)


def test_words_one_hot_and_every_cell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "text"
    path.write_text("The cat sat on the mat. The dog sat on the log.\n" * 40)
    for number, cell in enumerate(("rnn_tanh", "rnn_relu", "gru_reset_before", "lstm")):
        out = str(tmp_path / cell)
        choices = ("--embedding-size=0", "--tokenizer=word", "--normalization=book1")
        sampling = ("sequential", "random")[number % 2]
        arguments = ["lm", "train", str(path), "--out", out, "--steps=9", "--num-layers=2"]
        sizes = ("--hidden-size=8", "--batch-size=4", "--num-steps=8", "--optimizer=sgd")
        assert main([*arguments, *choices, *sizes, f"--cell={cell}", f"--sampling={sampling}"]) == 0
        assert main(["lm", "generate", out, "--prefix", "the cat", "--length", "3"]) == 0
        assert re.fullmatch(r"the cat( [a-z]+){3}", capsys.readouterr().out.splitlines()[-1])


def spawn(*arguments: object) -> subprocess.Popen:
    command = [sys.executable, "-m", "fused_rnn", *map(str, arguments)]
    # One thread: several processes share the machine.
    places = {"PYTHONPATH": str(Path(fused_rnn.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    environment = {**os.environ, **places}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, env=environment, **pipes)


def step_of(folder: Path) -> int:
    try:
        return json.loads((folder / "checkpoint.json").read_text())["position"]["step"]
    except FileNotFoundError:
        return 0


def interrupt(process: subprocess.Popen, folder: Path, step: int, number: signal.Signals) -> str:
    """Sends a signal once a checkpoint of this step or a later one is there."""
    deadline = time.monotonic() + 120
    while step_of(folder) < step and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    assert process.poll() is None
    process.send_signal(number)
    return process.communicate()[0]


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
def test_interrupted_and_killed_training_ends_the_same(tmp_path: Path, file: Path) -> None:
    """Ctrl-C, then SIGKILL, then the rest: bit for bit the weights of a training left alone."""
    options = (*SMALL, "--steps=300", "--validate-every=100")
    whole = spawn("lm", "train", file, "--out", tmp_path / "whole", *options)
    out = tmp_path / "parts"
    train = ("lm", "train", file, "--out", out, "--save-every=10")
    process = spawn(*train, *options)
    shown = interrupt(process, out, 10, signal.SIGINT)
    stopped = re.search(r"Stopped after step (\d+), saved in", shown)
    assert process.returncode == 130 and stopped, shown
    assert step_of(out) == int(stopped[1]) < 300

    process = spawn(*train, "--resume")
    interrupt(process, out, step_of(out) + 50, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert int(stopped[1]) + 50 <= step_of(out) < 300

    process = spawn(*train, "--resume")
    shown = process.communicate()[0]
    assert process.returncode == 0 and whole.communicate() and whole.returncode == 0, shown
    digests = [
        json.loads((folder / "checkpoint.json").read_text())["sha256"]
        for folder in (out, tmp_path / "whole")
    ]
    assert digests[0] == digests[1]
    # A checkpoint, its tensors and the curves; nothing a killed save left.
    assert len(files(out)) == 3


@pytest.mark.parametrize(
    "data, options, message",
    [
        (None, (), "No such file"),
        (b"", (), "file with none"),
        ("Grüße".encode("latin-1"), (), "expected UTF-8 text, got byte 0xfc at offset 2"),
        (b"short", (), "too short, expected at least 41 tokens"),
        (b"a" * 300, ("--dropout=1.5",), "dropout: expected"),
        (b"a" * 300, ("--learning-rate=0",), "learning_rate: expected more than 0"),
        (b"a" * 300, ("--steps=-1",), "steps: expected at least 1, got -1"),
        (b"a" * 300, ("--hidden-size=0",), "hidden_size: expected at least 1, got 0"),
        (b"a" * 300, ("--save-every=0",), "--save-every: expected at least 1, got 0"),
        (b"a" * 300, ("--resume",), "expected a checkpoint, found no checkpoint.json"),
    ],
)
def test_bad_input(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    data: bytes | None,
    options: tuple[str, ...],
    message: str,
) -> None:
    path, out = tmp_path / "text", tmp_path / "out"
    if data is not None:
        path.write_bytes(data)
    before = files(tmp_path)
    given = ("--batch-size=4", "--num-steps=8", *options)
    assert main(["lm", "train", str(path), "--out", str(out), *given]) == 1
    error = capsys.readouterr().err
    assert error.startswith("fused-rnn: error: ") and message in error and error.count("\n") == 1
    assert files(tmp_path) == before and not out.exists()


def test_bad_checkpoint_and_changed_mind(
    tmp_path: Path, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    train = ["lm", "train", str(file), "--out", str(out)]
    assert main([*train, *SMALL, "--steps=3"]) == 0
    (tmp_path / "blank").write_text(" ")
    (tmp_path / "other").write_text(CHINESE[::-1])
    before = files(tmp_path)
    other = ["lm", "train", str(tmp_path / "other"), "--out", str(out), "--resume"]
    for arguments, message in [
        (train, "already holds a checkpoint"),
        (
            [*train, "--resume", "--hidden-size=32"],
            "--hidden-size: the checkpoint was made with 16",
        ),
        (
            [*train, "--resume", "--tokenizer=word"],
            "--tokenizer: the checkpoint was made with char",
        ),
        (other, "expected the text that the checkpoint was trained on"),
        (["lm", "generate", str(out), "--prefix", ""], "prefix: expected"),
        (["lm", "generate", str(out), "--prefix=a", "--temperature=-1"], "temperature: expected"),
        (["lm", "generate", str(tmp_path), "--prefix=a"], "found no checkpoint.json"),
        (["lm", "evaluate", str(out), str(tmp_path / "blank")], "file with none"),
    ]:
        capsys.readouterr()
        assert main(arguments) == 1
        assert message in capsys.readouterr().err
        assert files(tmp_path) == before
    assert main([*train, "--resume", "--hidden-size=16", "--steps=3"]) == 0


def test_full_disk(tmp_path: Path, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    resource = pytest.importorskip("resource")
    out = tmp_path / "out"
    train = ["lm", "train", str(file), "--out", str(out)]
    assert main([*train, *SMALL, "--steps=3"]) == 0
    saved = load_language_model(out)
    before = files(out)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        assert main([*train, "--resume"]) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "fused-rnn: error: [Errno" in capsys.readouterr().err
    assert files(out) == before
    assert torch.equal(load_language_model(out).tensors["losses"], saved.tensors["losses"])


def test_unwritable_folder_is_found_out_first(
    tmp_path: Path, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "file"
    out.write_text("in the way")
    assert main(["lm", "train", str(file), "--out", str(out), *SMALL]) == 1
    assert "error: " in capsys.readouterr().err and out.read_text() == "in the way"


@pytest.mark.long
def test_demo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lm", "demo", "--out", str(tmp_path), "--seconds", "12"]) == 0
    shown = capsys.readouterr().out
    speeds = re.findall(r"([\d,]+) tokens/s  ([\w.]+)", shown)
    assert [name for _, name in speeds] == ["FusedGRU", "nn.GRU"]
    assert float(re.search(r"differ by at most ([\d.e+-]+)", shown)[1]) < 0.01
    assert len(re.findall(r"^ +[\d.]+  .*(?:language model|5-gram.*)$", shown, re.M)) == 2
    assert (tmp_path / "curves.png").exists() and load_language_model(tmp_path)
