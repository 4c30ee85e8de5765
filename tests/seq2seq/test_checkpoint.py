# SPDX-License-Identifier: MIT
"""Checkpoints: what is kept, what is refused, and that a failed save harms nothing."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import fused_rnn
from fused_rnn.seq2seq import (
    CheckpointError,
    LanguageModel,
    LanguageModelConfig,
    Trainer,
    TrainingOptions,
    load_language_model,
    save_language_model,
)
from fused_rnn.seq2seq.training import checkpoint
from fused_rnn.seq2seq.training.files import replace_file
from fused_rnn.text import Codec

TENSORS = {
    "weight": torch.arange(6.0).view(2, 3).t(),
    "half": torch.ones(3, dtype=torch.bfloat16),
    "step": torch.tensor(7),
    "none": torch.zeros(0, 4),
}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_round_trip(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    assert not checkpoint.holds_checkpoint(folder)
    checkpoint.save(folder, "test", {"words": ["é", "学"], "lr": 0.1 + 0.2}, TENSORS)
    assert checkpoint.holds_checkpoint(folder)
    record, tensors = checkpoint.load(folder, "test")
    assert record["words"] == ["é", "学"] and record["lr"] == 0.1 + 0.2
    assert tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert torch.equal(tensors[name], tensor) and tensors[name].dtype == tensor.dtype


def test_files_are_replaced_and_devices_written_to(tmp_path: Path) -> None:
    path, link, pipe = (tmp_path / name for name in ("log.csv", "link", "pipe"))
    path.write_bytes(b"old")
    link.symlink_to(path)
    with path.open("rb") as reader:
        replace_file(link, b"new")
        assert reader.read() == b"old"
    assert path.read_bytes() == b"new" and link.is_symlink()
    os.mkfifo(pipe)
    with open(os.open(pipe, os.O_RDONLY | os.O_NONBLOCK), "rb") as reader:
        replace_file(pipe, b"new")
        assert reader.read() == b"new"
    assert sorted(tmp_path.iterdir()) == sorted((path, link, pipe))


def test_a_save_replaces_and_cleans_up(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, "test", {}, TENSORS)
    first = names(tmp_path)
    checkpoint.save(tmp_path, "test", {}, TENSORS)
    assert names(tmp_path) == first and len(first) == 2
    (tmp_path / "notes.txt").write_text("kept")
    # What a killed save leaves behind.
    (tmp_path / f"tensors-{'0' * 16}.safetensors").write_bytes(b"")
    (tmp_path / f"tensors-{'1' * 16}.safetensors.tmp").write_bytes(b"")
    (tmp_path / "checkpoint.json.tmp").write_bytes(b"")
    checkpoint.save(tmp_path, "test", {}, {"other": torch.ones(1)})
    record, tensors = checkpoint.load(tmp_path, "test")
    assert names(tmp_path) == ["checkpoint.json", "notes.txt", record["tensors"]]
    assert tensors.keys() == {"other"}


@pytest.mark.parametrize("kept", [0, 1, 100, -1])
@pytest.mark.parametrize("which", ["checkpoint.json", "tensors"])
def test_truncated(tmp_path: Path, which: str, kept: int) -> None:
    checkpoint.save(tmp_path, "test", {"words": ["é" * 100]}, TENSORS)
    (path,) = tmp_path.glob(f"{which}*")
    # The last byte of the JSON file is a line feed, which nothing needs.
    path.write_bytes(path.read_bytes()[: kept if kept >= 0 else -2])
    before = contents(tmp_path)
    with pytest.raises(CheckpointError, match="damaged|truncated"):
        checkpoint.load(tmp_path, "test")
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"format": "another program 3"}, "expected format .* got 'another program 3'"),
        ({"format": None}, "expected format"),
        ({"kind": "translator"}, "expected one of a test, got 'translator'"),
        ({"tensors": "../secret"}, "expected the name of a tensors file"),
        ({"tensors": f"tensors-{'0' * 16}.safetensors"}, "tensors are missing"),
        ({"sha256": "0" * 64}, "truncated or altered"),
    ],
)
def test_foreign(tmp_path: Path, changes: dict, message: str) -> None:
    checkpoint.save(tmp_path, "test", {}, TENSORS)
    path = tmp_path / "checkpoint.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(CheckpointError, match=message):
        checkpoint.load(tmp_path, "test")


@pytest.mark.parametrize("data", [b"[1, 2]", b"\xff\xfe", b"3"])
def test_not_a_record(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "checkpoint.json").write_bytes(data)
    with pytest.raises(CheckpointError, match="expected format|damaged"):
        checkpoint.load(tmp_path, "test")


def test_absent(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for place in (tmp_path, tmp_path / "absent", tmp_path / "file"):
        with pytest.raises(CheckpointError, match=r"found no checkpoint\.json"):
            checkpoint.load(place, "test")


def test_full_disk(tmp_path: Path) -> None:
    """A limit on the size of files stands for the end of the disk: the write itself fails."""
    resource = pytest.importorskip("resource")
    checkpoint.save(tmp_path, "test", {"age": "old"}, TENSORS)
    before = contents(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    cases = [
        ({}, {"large": torch.ones(1 << 20)}),
        ({"long": "x" * (1 << 21)}, {"a": torch.ones(1)}),
    ]
    for record, tensors in cases:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
        try:
            with pytest.raises(OSError):
                checkpoint.save(tmp_path, "test", record, tensors)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert contents(tmp_path) == before
    assert checkpoint.load(tmp_path, "test").record["age"] == "old"


@pytest.mark.parametrize("function", ["fsync", "replace"])
@pytest.mark.parametrize("call", [0, 1, 2, 3])
def test_a_save_that_fails_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str, call: int
) -> None:
    checkpoint.save(tmp_path, "test", {"age": "old"}, TENSORS)
    original, calls = getattr(os, function), []

    def fail(*arguments: Any) -> None:
        calls.append(arguments)
        if len(calls) == call + 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        original(*arguments)

    monkeypatch.setattr(os, function, fail)
    changed = {"weight": torch.ones(9)}
    if function == "replace" and call >= 2:
        # There are only two.
        checkpoint.save(tmp_path, "test", {"age": "new"}, changed)
    else:
        with pytest.raises(OSError, match="No space left"):
            checkpoint.save(tmp_path, "test", {"age": "new"}, changed)
    monkeypatch.undo()
    record, tensors = checkpoint.load(tmp_path, "test")
    assert tensors.keys() == ({"weight"} if record["age"] == "new" else TENSORS.keys())
    # Where only the last synchronisation failed, the tensors before it are left to the next save.
    assert len(names(tmp_path)) == (3 if (function, call) == ("fsync", 3) else 2)


def test_language_model_that_does_not_fit(tmp_path: Path) -> None:
    model = LanguageModel(LanguageModelConfig(5, hidden_size=4))
    trainer = Trainer(model, torch.arange(200) % 5, TrainingOptions(batch_size=2, num_steps=4))
    save_language_model(tmp_path, Codec.of("abcd"), trainer)
    load_language_model(tmp_path)
    path = tmp_path / "checkpoint.json"
    record = json.loads(path.read_text())
    for changes in (
        {"config": {**record["config"], "hidden_size": 5}},
        {"config": {**record["config"], "heads": 5}},
        {"codec": {**record["codec"], "vocab": ["a"]}},
        {"codec": {**record["codec"], "vocab": record["codec"]["vocab"][:-1]}},
        {"codec": {**record["codec"], "vocab": [*record["codec"]["vocab"], "z"]}},
        {"options": None},
        {"position": {}},
    ):
        path.write_text(json.dumps({**record, **changes}))
        with pytest.raises(
            CheckpointError, match="checkpoint of a language model|the weights have"
        ):
            load_language_model(tmp_path).resume(torch.arange(200) % 5)


def test_importing_needs_only_torch() -> None:
    blocked = ("safetensors", "tqdm", "matplotlib", "tokenizers", "sacrebleu")
    code = f"import sys; sys.modules.update(dict.fromkeys({blocked}))\n"
    code += "import fused_rnn, fused_rnn.text, fused_rnn.seq2seq, fused_rnn.cli.main\n"
    environment = {**os.environ, "PYTHONPATH": str(Path(fused_rnn.__file__).parents[1])}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
