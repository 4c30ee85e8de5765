# SPDX-License-Identifier: MIT
"""Two gloo processes train as one does on the joined minibatches, and resume exactly."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn

from fused_rnn.seq2seq import (
    CheckpointError,
    LanguageModel,
    LanguageModelConfig,
    Options,
    Trainer,
    Training,
    TrainingOptions,
    Translator,
    TranslatorConfig,
    TranslatorTraining,
    load_language_model,
    load_translator,
    save_language_model,
    save_translator,
)
from fused_rnn.testing import assert_within_budget
from fused_rnn.text import RESERVED, Codec, Pairs, number_pairs

WORLD, STEPS, HALF = 2, 7, 4
TOKENS = torch.arange(200) % 7
LETTERS = Codec.of("abcdef")
# 13 pairs in minibatches of 4: the last one is of one row, so one process gets none.
NUMBERS = number_pairs(13, limit=100)
SOURCE, TARGET = (
    Codec.learn(side, tokenizer="char", reserved=RESERVED) for side in zip(*NUMBERS, strict=True)
)
PAIRS = Pairs(NUMBERS, SOURCE, TARGET)


def language_model(dropout: float) -> Trainer:
    torch.manual_seed(0)
    config = LanguageModelConfig(7, "lstm", hidden_size=6, embedding_size=5, dropout=dropout)
    options = TrainingOptions(steps=STEPS, batch_size=4, num_steps=5, learning_rate=0.02)
    return Trainer(LanguageModel(config), TOKENS, options)


def translator(dropout: float) -> TranslatorTraining:
    torch.manual_seed(0)
    config = TranslatorConfig(
        source_vocab_size=len(SOURCE.vocab),
        target_vocab_size=len(TARGET.vocab),
        hidden_size=6,
        embedding_size=5,
        outer_dropout=dropout,
    )
    options = Options(steps=STEPS, batch_size=4, learning_rate=0.02)
    return TranslatorTraining(Translator(config), PAIRS, TARGET.vocab.bos, options)


BUILDERS = {"language model": language_model, "translator": translator}


def save(folder: Path, trainer: Training) -> None:
    if isinstance(trainer, Trainer):
        save_language_model(folder, LETTERS, trainer)
    elif isinstance(trainer, TranslatorTraining):
        save_translator(folder, SOURCE, TARGET, trainer, {})


def load(folder: Path, kind: str) -> Training:
    if kind == "language model":
        return load_language_model(folder).resume(TOKENS)
    return load_translator(folder).resume(PAIRS)


def outcome(trainer: Training) -> dict[str, object]:
    return {"weights": flat(trainer), "losses": trainer.losses}


def flat(trainer: Training) -> torch.Tensor:
    return nn.utils.parameters_to_vector(trainer.model.parameters()).detach().clone()


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    os.environ |= {"GLOO_SOCKET_IFNAME": "lo"}
    store = dist.FileStore(str(Path(folder) / "store"), WORLD)
    dist.init_process_group("gloo", rank=rank, world_size=WORLD, store=store)
    for kind, build in BUILDERS.items():
        torch.set_default_dtype(torch.float64)
        trainer = build(0.0)
        while not trainer.finished:
            trainer.train_step()
        torch.save(outcome(trainer), Path(folder) / f"{kind} {rank}")
        torch.set_default_dtype(torch.float32)
        trainer = build(0.3)
        place = Path(folder) / f"{kind} saved"
        while not trainer.finished:
            if trainer.step == HALF:
                save(place, trainer)
                dist.barrier()
            trainer.train_step()
        resumed = load(place, kind)
        while not resumed.finished:
            resumed.train_step()
        same = torch.equal(flat(resumed), flat(trainer)) and resumed.losses == trainer.losses
        torch.save(same, Path(folder) / f"{kind} resumed {rank}")
    with pytest.raises(ValueError, match="batch_size: expected a multiple of the 2 processes"):
        odd = replace(language_model(0.0).options, batch_size=3)
        Trainer(LanguageModel(LanguageModelConfig(7)), TOKENS, odd)
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what two processes left: one start of processes for all."""
    if not dist.is_available():
        pytest.skip("this PyTorch has no torch.distributed")
    folder = tmp_path_factory.mktemp("parallel")
    torch.multiprocessing.spawn(work, (str(folder),), nprocs=WORLD)
    return folder


@pytest.mark.parametrize("kind", BUILDERS)
def test_as_one_process(kind: str, trained: Path) -> None:
    torch.set_default_dtype(torch.float64)
    try:
        alone = BUILDERS[kind](0.0)
        start = flat(alone)
        while not alone.finished:
            alone.train_step()
    finally:
        torch.set_default_dtype(torch.float32)
    assert not torch.equal(flat(alone), start)
    for rank in range(WORLD):
        found = torch.load(trained / f"{kind} {rank}")
        # Sums of gradients are taken in another order, and Adam divides by their size.
        assert_within_budget(found["weights"], flat(alone), name=f"{kind} {rank}")
        assert found["losses"] == pytest.approx(alone.losses, rel=1e-12)


@pytest.mark.parametrize("kind", BUILDERS)
def test_resumed_by_as_many_processes(kind: str, trained: Path) -> None:
    assert all(torch.load(trained / f"{kind} resumed {rank}") for rank in range(WORLD))
    with pytest.raises(CheckpointError, match="expected the 2 processes .* trained by, got 1"):
        load(trained / f"{kind} saved", kind)
