# SPDX-License-Identifier: MIT
"""Training of language models: saved, resumed, stopped, and gone wrong."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from language_models import OPTIONS, build, text, weights

from fused_rnn.seq2seq import (
    CELLS,
    CheckpointError,
    Diverged,
    Trainer,
    evaluate,
    load_language_model,
    save_language_model,
    train,
)
from fused_rnn.seq2seq.training import randomness
from fused_rnn.text import Codec


def test_training_saves_now_and_then_and_stops_when_told() -> None:
    saved: list[int] = []
    trainer = Trainer(build(), text(), OPTIONS)
    stop = iter([False] * 7 + [True])
    train(
        trainer,
        text(30),
        save=lambda: saved.append(trainer.step),
        save_every=3,
        stop=lambda: next(stop),
    )
    assert saved == [3, 6, 7] and not trainer.finished
    train(trainer, text(30), save=lambda: saved.append(trainer.step), save_every=3)
    assert saved == [3, 6, 7, 9] and trainer.finished


def test_a_decayed_step_is_torchs() -> None:
    options = replace(OPTIONS, optimizer="adamw", weight_decay=0.3, schedule="constant", steps=2)
    trainer, twin = Trainer(build(), text(), options), build()
    optimizer = torch.optim.AdamW(twin.parameters(), options.learning_rate, weight_decay=0.3)
    twin.load_state_dict(trainer.model.state_dict())
    for _ in range(2):
        trainer.train_step()
        pairs = zip(twin.parameters(), trainer.model.parameters(), strict=True)
        for own, other in pairs:
            own.grad = other.grad.clone()
        optimizer.step()
    assert torch.equal(weights(twin), weights(trainer.model))


def test_training_that_diverges_is_not_saved() -> None:
    saved: list[int] = []
    options = replace(OPTIONS, optimizer="sgd", schedule="constant", learning_rate=1e38)
    trainer = Trainer(build(), text(), options)
    with pytest.raises(ValueError, match="loss: expected a finite number, got (nan|inf) at step"):
        train(trainer, text(30), save=lambda: saved.append(trainer.step), save_every=100)
    assert saved == []
    # What led there has not been taken, and neither is it by whoever makes steps himself.
    before = weights(trainer.model).clone()
    with pytest.raises(Diverged):
        trainer.train_step()
    assert torch.equal(weights(trainer.model), before)


def test_weights_that_are_no_numbers_are_not_saved() -> None:
    trainer = Trainer(build(), text(), replace(OPTIONS, steps=1))
    step = trainer.train_step

    def spoiling() -> float:
        loss = step()
        with torch.no_grad():
            trainer.model.output.bias[2] = math.nan
        return loss

    trainer.train_step = spoiling
    trainer.validate = lambda held_out: 1.0
    with pytest.raises(Diverged, match="output.bias: expected finite numbers, got others after"):
        train(trainer, text(30), save=lambda: pytest.fail("saved"))


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_a_gradient_that_is_no_number_is_not_followed(broken: float) -> None:
    trainer = Trainer(build(), text(), OPTIONS)
    trainer.model.output.bias.register_hook(lambda gradient: torch.full_like(gradient, broken))
    before = weights(trainer.model).clone()
    with pytest.raises(Diverged, match="gradient: expected a finite number, got .* at step 1"):
        trainer.train_step()
    assert torch.equal(weights(trainer.model), before) and trainer.step == 0


def test_unknown_tokens_count_if_they_were_trained_on(in_float64: None) -> None:
    known = text()[text() > 0]
    held = torch.tensor([1, 0, 2, 3, 0, 1])
    for tokens, skip in ((known, (0,)), (torch.cat((known, held)), ())):
        trainer = Trainer(build(), tokens, OPTIONS)
        trainer.validate(held)
        expected = evaluate(trainer.model, held, batch_size=OPTIONS.batch_size, skip=skip)
        assert expected.predicted == 5 - 2 * len(skip)
        assert trainer.validations == [(0, expected.loss_sum / expected.predicted)]


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("sampling", ["sequential", "random"])
@pytest.mark.parametrize("optimizer", ["adam", "sgd", "adamw"])
def test_resumed_training_is_the_same_bit_for_bit(
    tmp_path: Path, cell: str, sampling: str, optimizer: str
) -> None:
    options = replace(OPTIONS, sampling=sampling, optimizer=optimizer, steps=14)
    codec = Codec.of("abcdefghij")
    whole = Trainer(build(cell, num_layers=2), text(), options)
    for step in range(14):
        # A position in the middle of a pass, and one in another pass.
        if step in (2, 9):
            save_language_model(tmp_path / str(step), codec, whole)
        whole.train_step()
    for step in (2, 9):
        torch.manual_seed(99)
        saved = load_language_model(tmp_path / str(step))
        assert saved.codec.vocab.tokens == codec.vocab.tokens and saved.options == options
        resumed = saved.resume(text())
        assert resumed.step == step
        while not resumed.finished:
            resumed.train_step()
        assert torch.equal(weights(resumed.model), weights(whole.model))
        assert resumed.losses == whole.losses


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_resumed_training_is_the_same_on_a_gpu(tmp_path: Path, precision: str) -> None:
    options = replace(OPTIONS, sampling="sequential", steps=12, precision=precision)
    whole = Trainer(build("lstm", num_layers=2).cuda(), text(), options)
    for step in range(12):
        if step == 7:
            save_language_model(tmp_path, Codec.of("abcdefghij"), whole)
        whole.train_step()
    torch.cuda.manual_seed(99)
    saved = load_language_model(tmp_path)
    saved.model.cuda()
    resumed = saved.resume(text())
    while not resumed.finished:
        resumed.train_step()
    assert resumed.losses == whole.losses
    assert torch.equal(weights(resumed.model), weights(whole.model))


def test_a_gpus_generator_is_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a generator of the host in the place of the device's."""
    device, own = torch.device("cuda", 1), torch.Generator().manual_seed(5)
    states = {device: own}
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda which: states[which].get_state())
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda s, which: states[which].set_state(s))
    kept = randomness.states(device)
    assert set(kept) == {"random", "random-cuda"}
    drawn = torch.rand(3, generator=own)
    randomness.restore(kept, torch.device("cpu"))
    assert not torch.equal(torch.rand(3, generator=own), drawn)
    randomness.restore(kept, device)
    assert torch.equal(torch.rand(3, generator=own), drawn)
    assert set(randomness.states(torch.device("cpu"))) == {"random"}


def test_resuming_needs_the_same_text(tmp_path: Path) -> None:
    save_language_model(tmp_path, Codec.of("abcdefghij"), Trainer(build(), text(), OPTIONS))
    with pytest.raises(CheckpointError, match="expected the text"):
        load_language_model(tmp_path).resume(text().flip(0))


def test_resuming_needs_what_was_held_out(tmp_path: Path) -> None:
    codec, first = Codec.of("abcdefghij"), Trainer(build(), text(), OPTIONS)
    # Noted by whatever looks at it first.
    train(first, text(30), save=lambda: None, stop=lambda: True)
    save_language_model(tmp_path, codec, first)
    again = load_language_model(tmp_path).resume(text())
    with pytest.raises(CheckpointError, match="expected what the checkpoint held out"):
        train(again, text(31), save=lambda: None)
    train(again, text(30), save=lambda: None)
    assert again.finished
