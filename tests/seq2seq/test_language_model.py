# SPDX-License-Identifier: MIT
"""The language model, its training, evaluation and generation."""

import math
import random
from dataclasses import replace
from typing import Any

import pytest
import torch
from language_models import OPTIONS, V, build, text, weights
from torch import Tensor
from torch.nn import functional as F

from fused_rnn import use_backend
from fused_rnn.seq2seq import (
    CELLS,
    LanguageModel,
    LanguageModelConfig,
    Prediction,
    Trainer,
    TrainingOptions,
    detach,
    evaluate,
    generate,
    train,
)
from fused_rnn.text import sequential_batches


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("embedding_size", [0, 7], ids=["onehot", "embedding"])
@pytest.mark.parametrize("num_layers", [1, 2])
def test_pieces_and_steps_equal_the_whole(
    in_float64: None, cell: str, embedding_size: int, num_layers: int
) -> None:
    model = build(cell, embedding_size=embedding_size, num_layers=num_layers).eval()
    tokens = text(24).view(8, 3)
    whole = model(tokens)
    assert whole.logits.shape == (8, 3, V)
    head = model(tokens[:5])
    tail = model(tokens[5:], detach(head.state))
    pieces = torch.cat((head.logits, tail.logits))
    torch.testing.assert_close(pieces, whole.logits, rtol=1e-12, atol=1e-12)
    state = None
    for now, expected in zip(tokens, whole.logits, strict=True):
        logits, state = model.step(now, state)
        torch.testing.assert_close(logits, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("backend", ["auto", "torch", "reference"])
def test_backends_agree(in_float64: None, backend: str) -> None:
    model = build("lstm", num_layers=2).eval()
    with use_backend("reference"):
        expected = model(text(24).view(8, 3)).logits
    with use_backend(backend):
        logits = model(text(24).view(8, 3)).logits
    torch.testing.assert_close(logits, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"cell": "sru"}, "cell: expected one of"),
        ({"hidden_size": 0}, "hidden_size: expected at least 1, got 0"),
        ({"num_layers": 0}, "num_layers: expected at least 1, got 0"),
        ({"embedding_size": -1}, "embedding_size: expected 0 or more, got -1"),
        ({"dropout": 1.0}, "dropout: expected at least 0, below 1, got 1.0"),
    ],
)
def test_config_refuses(wrong: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LanguageModelConfig(**{"vocab_size": V, **wrong})


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"steps": 0}, "steps: expected at least 1, got 0"),
        ({"sampling": "all"}, "sampling: expected one of"),
        ({"optimizer": "lion"}, "optimizer: expected one of"),
        ({"schedule": "step"}, "schedule: expected one of"),
        ({"clip": 0.0}, "clip: expected more than 0"),
        ({"learning_rate": math.nan}, "learning_rate: expected more than 0"),
        ({"held_out": 1.0}, "held_out: expected between 0 and 1"),
    ],
)
def test_options_refuse(wrong: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainingOptions(**wrong)


def test_evaluation_is_the_mean_over_every_token(in_float64: None) -> None:
    model, tokens = build(), text(50)
    result = evaluate(model, tokens)
    assert model.training
    logits = model.eval()(tokens[:-1, None]).logits[:, 0]
    expected = F.cross_entropy(logits, tokens[1:])
    assert result.predicted == 49
    assert result.perplexity == pytest.approx(expected.exp().item(), rel=1e-12)
    for num_steps in (1, 7, 49):
        assert evaluate(model, tokens, num_steps=num_steps).loss_sum == pytest.approx(
            result.loss_sum, rel=1e-12
        )
    parts = [evaluate(model, tokens[first : first + 11]).loss_sum for first in range(0, 49, 10)]
    side_by_side = evaluate(model, tokens, batch_size=5, num_steps=3)
    assert side_by_side == (pytest.approx(sum(parts), rel=1e-12), 49)
    assert evaluate(model, tokens[:3], batch_size=16).predicted == 2
    with pytest.raises(ValueError, match="expected at least 2, got 1"):
        evaluate(model, tokens[:1])
    for size in ("batch_size", "num_steps"):
        with pytest.raises(ValueError, match=f"{size}: expected at least 1, got 0"):
            evaluate(model, tokens, **{size: 0})


def test_what_is_not_counted_is_read_all_the_same(in_float64: None) -> None:
    model, tokens = build().eval(), text(50)
    kept = tokens[1:] != 3
    expected = F.cross_entropy(model(tokens[:-1, None]).logits[:, 0][kept], tokens[1:][kept])
    assert 0 < kept.sum() < 49
    for sizes in ({}, {"num_steps": 7}):
        result = evaluate(model, tokens, skip=(3,), **sizes)
        assert result.predicted == int(kept.sum())
        assert result.perplexity == pytest.approx(expected.exp().item(), rel=1e-12)
    with pytest.raises(ValueError, match="tokens: expected some to predict besides"):
        evaluate(model, tokens, skip=range(V))


def test_state_is_carried_between_sequential_minibatches_only() -> None:
    seen: list[tuple[bool, Tensor | None]] = []

    class Spy(LanguageModel):
        def forward(self, tokens: Tensor, state: Tensor | None = None) -> Prediction:
            result = super().forward(tokens, state)
            seen.append((state is not None and state.requires_grad, state))
            self.last = result.state
            return result

    for sampling in ("sequential", "random"):
        seen.clear()
        model = Spy(LanguageModelConfig(V, hidden_size=4))
        options = replace(OPTIONS, sampling=sampling, steps=20)
        trainer = Trainer(model, text(60), options)
        passes = [
            len(list(sequential_batches(text(60), 3, 5, rng=random.Random(f"3 {e}"))))
            for e in range(20)
        ]
        fresh = {sum(passes[:e]) for e in range(20)} if sampling == "sequential" else set(range(20))
        for _ in range(20):
            trainer.train_step()
        assert not any(tracked for tracked, _ in seen)
        assert [i for i, (_, state) in enumerate(seen) if state is None] == sorted(
            fresh & set(range(20))
        )


def test_one_step_is_the_books_step(in_float64: None) -> None:
    model = build(dropout=0.0)
    options = replace(OPTIONS, optimizer="sgd", schedule="constant", learning_rate=0.7, clip=0.01)
    trainer = Trainer(model, text(), options)
    x, y = next(sequential_batches(text(), 3, 5, rng=random.Random("3 0")))
    before = weights(model).detach().clone()
    loss = F.cross_entropy(model(x.t()).logits.reshape(-1, V), y.t().reshape(-1))
    gradient = torch.cat([g.flatten() for g in torch.autograd.grad(loss, model.parameters())])
    assert gradient.norm() > options.clip
    assert trainer.train_step() == pytest.approx(loss.item(), rel=1e-12)
    # PyTorch's clipping divides by the norm plus 1e-6.
    step = 0.7 * gradient * (options.clip / (gradient.norm() + 1e-6))
    torch.testing.assert_close(weights(model), before - step, rtol=1e-12, atol=1e-12)


def test_learning_rate() -> None:
    options = TrainingOptions(steps=1000, learning_rate=1.0)
    rates = [options.rate(step) for step in range(1000)]
    assert rates[0] == pytest.approx(1 / 50) and max(rates) == max(rates[49:51]) > 0.99
    assert rates[50:] == sorted(rates[50:], reverse=True) and 0.02 <= rates[-1] < 0.021
    assert replace(options, schedule="constant").rate(999) == 1.0
    rooted = [replace(options, schedule="inverse-sqrt", warm_up=16).rate(s) for s in range(400)]
    assert rooted[:16] == pytest.approx([(step + 1) / 16 for step in range(16)])
    assert (rooted[63], rooted[399]) == pytest.approx((0.5, 0.2))
    plateau = replace(options, schedule="plateau")
    seen = [(10, 2.0), (20, 1.0), (30, 1.0), (40, 0.5), (50, 0.7), (60, 0.6)]
    assert [plateau.rate(0, seen[:n]) for n in range(7)] == [1, 1, 1, 0.5, 0.5, 0.25, 0.125]


def test_short_text_is_refused() -> None:
    with pytest.raises(ValueError, match="expected at least 21 .* got 20"):
        Trainer(build(), text(20), OPTIONS)
    Trainer(build(), text(21), OPTIONS).train_step()


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_learns_a_simple_text(cell: str) -> None:
    tokens = torch.tensor([1, 2, 3, 1, 2, 4] * 60)
    options = replace(OPTIONS, steps=300, learning_rate=0.02)
    trainer = Trainer(build(cell, hidden_size=24, dropout=0.0), tokens, options)
    train(trainer, tokens[:50], save=lambda: None)
    assert trainer.finished and trainer.validations[-1][0] == 300
    assert evaluate(trainer.model, tokens).perplexity < 1.1
    assert generate(trainer.model, tokens[:6], 6, temperature=0) == [1, 2, 3, 1, 2, 4]


def test_generation(in_float64: None) -> None:
    model, prefix = build(), text(5)

    def draw(seed: int, **options: Any) -> list[int]:
        return generate(model, prefix, 30, generator=torch.Generator().manual_seed(seed), **options)

    assert draw(1) == draw(1) != draw(2) and model.training
    assert draw(1, temperature=0) == draw(2, temperature=0) == draw(1, temperature=1e-300)
    assert not {0, 3} & set(draw(1, temperature=50.0, ban=(0, 3)))
    assert set(draw(1, temperature=50.0)) >= {0, 3}
    likeliest = model.eval()(prefix[:, None]).logits[-1, 0].argmax()
    assert generate(model, prefix, 1, temperature=0) == [int(likeliest)]
    assert generate(model, prefix, 0) == []
    with pytest.raises(ValueError, match="prefix"):
        generate(model, prefix[:0], 1)
    with pytest.raises(ValueError, match="length"):
        generate(model, prefix, -1)
    with pytest.raises(ValueError, match="temperature"):
        generate(model, prefix, 1, temperature=-1.0)
