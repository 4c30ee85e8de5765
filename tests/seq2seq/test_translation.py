# SPDX-License-Identifier: MIT
"""Translators: loss, training, resuming, early stopping, evaluation, and whole sentences."""

import json
import math
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from translators import BOS, CODECS, NAMES, NUMBERS, build

from fused_rnn.seq2seq import (
    CheckpointError,
    Options,
    Translator,
    TranslatorConfig,
    TranslatorTraining,
    corpus_scores,
    evaluate_translator,
    load_language_model,
    load_translator,
    masked_cross_entropy,
    save_translator,
    train,
    translate,
)
from fused_rnn.testing import assert_within_budget
from fused_rnn.text import RESERVED, Codec, Pair, Pairs, number_pairs

PAIRS = Pairs(NUMBERS[:40], *CODECS)
HELD_OUT = Pairs(NUMBERS[40:], *CODECS)
OPTIONS = Options(steps=8, batch_size=6, seed=3, validate_every=4)


def weights(model: nn.Module) -> torch.Tensor:
    return nn.utils.parameters_to_vector(model.parameters()).detach()


def test_masked_cross_entropy(in_float64: None) -> None:
    logits, targets = torch.randn(3, 4, 5), torch.randint(5, (3, 4))
    lengths = [4, 0, 2]
    expected = sum(
        -logits[b, t].log_softmax(-1)[targets[b, t]] for b in range(3) for t in range(lengths[b])
    )
    assert_within_budget(masked_cross_entropy(logits, targets, torch.tensor(lengths)), expected)


@pytest.mark.parametrize("attention", ["none", "general"])
def test_evaluation_is_teacher_forcing_sentence_by_sentence(
    in_float64: None, attention: str
) -> None:
    model = build(attention=attention).train()
    result = evaluate_translator(model, HELD_OUT, BOS, batch_size=7)
    assert model.training
    model.eval()
    total, count = 0.0, 0
    for pair in HELD_OUT.encoded:
        target = torch.tensor(pair.target)
        fed = torch.cat((torch.tensor([BOS]), target[:-1]))
        logits = model(torch.tensor([pair.source]), fed[None]).logits[0]
        total += F.cross_entropy(logits, target, reduction="sum").item()
        count += len(target)
    assert result == (pytest.approx(total, rel=1e-12), count)
    assert result.perplexity == pytest.approx(math.exp(total / count), rel=1e-12)
    with pytest.raises(ValueError, match="pairs: expected at least one, got none"):
        evaluate_translator(model, Pairs([], *CODECS), BOS)
    with pytest.raises(ValueError, match="pairs: expected at least one, got none"):
        TranslatorTraining(model, Pairs([], *CODECS), BOS, OPTIONS)


def test_one_step(in_float64: None) -> None:
    model = build(outer_dropout=0.0)
    options = replace(OPTIONS, optimizer="sgd", schedule="constant", learning_rate=0.7, clip=0.01)
    trainer = TranslatorTraining(model, PAIRS, BOS, options)
    batch = next(PAIRS.batches(6, random.Random("3 0")))
    before = weights(model).clone()
    fed = torch.cat((torch.full((6, 1), BOS), batch.target[:, :-1]), 1)
    logits = model(batch.source, fed, batch.source_lengths).logits
    inside = torch.arange(fed.size(1)) < batch.target_lengths[:, None]
    loss = F.cross_entropy(logits[inside], batch.target[inside])
    gradient = torch.cat([g.flatten() for g in torch.autograd.grad(loss, model.parameters())])
    assert gradient.norm() > options.clip
    assert trainer.train_step() == pytest.approx(loss.item(), rel=1e-12)
    # PyTorch's clipping divides by the norm plus 1e-6.
    expected = before - 0.7 * gradient * (options.clip / (gradient.norm() + 1e-6))
    assert_within_budget(weights(model), expected)


def test_training_ends_with_the_mean_of_the_last(tmp_path: Path) -> None:
    options = replace(OPTIONS, steps=11, validate_every=2, average=3, learning_rate=0.05)
    seen: list[torch.Tensor] = []

    class Noting(TranslatorTraining):
        def validate(self, held_out: Any) -> float:
            seen.append(weights(self.model).clone())
            return super().validate(held_out)

    def save() -> None:
        save_translator(tmp_path, *CODECS, trainer, {})

    trainer = Noting(build(), PAIRS, BOS, options)
    # Stopped on the way, and gone on with.
    train(trainer, HELD_OUT, save=save, stop=lambda: trainer.step == 7)
    train(trainer, HELD_OUT, save=lambda: None)
    # After steps 2, 4, 6, 8, 10 and 11.
    assert len(seen) == 6
    assert torch.equal(weights(trainer.model), torch.stack(seen[-3:]).mean(0))
    resumed = load_translator(tmp_path).resume(PAIRS)
    train(resumed, HELD_OUT, save=lambda: None)
    assert torch.equal(weights(resumed.model), weights(trainer.model))


def test_minibatches_added_up_are_one(in_float64: None) -> None:
    large = replace(OPTIONS, steps=5, precision="float32", optimizer="adamw", label_smoothing=0.1)
    trained = []
    for options in (large, replace(large, batch_size=2, accumulate=3)):
        trainer = TranslatorTraining(build(outer_dropout=0.0), PAIRS, BOS, options)
        for _ in range(5):
            trainer.train_step()
        assert trainer.units_per_step == 6
        trained.append(trainer)
    assert_within_budget(weights(trained[1].model), weights(trained[0].model))
    assert trained[1].losses == pytest.approx(trained[0].losses, rel=1e-12)


def test_smoothed_labels(in_float64: None) -> None:
    logits, targets, lengths = torch.randn(2, 3, 5), torch.randint(5, (2, 3)), torch.tensor([3, 1])
    logs = logits.log_softmax(-1)
    own = logs.gather(2, targets.unsqueeze(2)).squeeze(2)
    each = -(0.8 * own + 0.2 * logs.mean(-1))
    expected = each[0].sum() + each[1, 0]
    found = masked_cross_entropy(logits, targets, lengths, label_smoothing=0.2)
    assert_within_budget(found, expected)
    # What is held out is judged as ever.
    plain, smooth = (
        TranslatorTraining(build(), PAIRS, BOS, replace(OPTIONS, label_smoothing=part))
        for part in (0.0, 0.3)
    )
    assert plain.evaluate(HELD_OUT) == smooth.evaluate(HELD_OUT)
    assert plain.train_step() != smooth.train_step()


@pytest.mark.parametrize(
    "config",
    [
        dict(cell="lstm", num_layers=2, dropout=0.3),
        dict(attention="additive", attend="before", bidirectional=False),
        dict(attention="none", embedding_size=10, tied=True),
    ],
    ids=str,
)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_resumed_training_is_the_same_bit_for_bit(
    tmp_path: Path, config: dict[str, Any], precision: str
) -> None:
    options = replace(OPTIONS, steps=9, precision=precision, patience=5)
    whole = TranslatorTraining(build(**config), PAIRS, BOS, options)
    for step in range(9):
        # A position in the middle of a pass, and one in another pass.
        if step in (2, 8):
            save_translator(tmp_path / str(step), *CODECS, whole, {"note": "é"})
        whole.train_step()
        if step == 1:
            whole.validate(HELD_OUT)
    for step in (2, 8):
        torch.manual_seed(99)
        saved = load_translator(tmp_path / str(step))
        assert saved.source.vocab.tokens == CODECS[0].vocab.tokens
        assert saved.data == {"note": "é"} and saved.options == options
        resumed = saved.resume(PAIRS)
        while resumed.step < 9:
            resumed.train_step()
        assert torch.equal(weights(resumed.model), weights(whole.model))
        assert resumed.losses == whole.losses and resumed.validations == whole.validations
    assert all(p.dtype == torch.float32 for p in whole.model.parameters())
    with pytest.raises(CheckpointError, match="expected the text that the checkpoint was trained"):
        load_translator(tmp_path / "2").resume(HELD_OUT)


def test_bfloat16_trains_nearly_the_same() -> None:
    losses = {}
    for precision in ("float32", "bfloat16"):
        options = replace(OPTIONS, steps=60, precision=precision, learning_rate=0.03)
        trainer = TranslatorTraining(build(outer_dropout=0.0), PAIRS, BOS, options)
        losses[precision] = [trainer.train_step() for _ in range(60)]
    assert losses["float32"] != losses["bfloat16"]
    assert losses["bfloat16"][0] == pytest.approx(losses["float32"][0], rel=0.01)
    for own in losses.values():
        assert own[-1] < 0.9 * own[0]


def test_early_stopping_keeps_the_best(tmp_path: Path) -> None:
    options = replace(
        OPTIONS, steps=200, validate_every=2, patience=3, learning_rate=0.3, schedule="constant"
    )
    trainer = TranslatorTraining(build(), PAIRS, BOS, options)
    saved: list[int] = []

    def save() -> None:
        saved.append(trainer.step)
        save_translator(tmp_path, *CODECS, trainer, {})

    train(trainer, HELD_OUT, save=save)
    losses = [loss for _, loss in trainer.validations]
    best = losses.index(min(losses))
    assert trainer.finished and trainer.step < 200 and len(losses) - 1 - best == 3
    result = evaluate_translator(trainer.model, HELD_OUT, BOS)
    assert result.loss_sum / result.predicted == pytest.approx(min(losses), rel=1e-6)
    again = load_translator(tmp_path).resume(PAIRS)
    assert again.finished and torch.equal(weights(again.model), weights(trainer.model))


def test_learns_number_words() -> None:
    pairs = number_pairs(100, limit=100)
    source, target = (
        Codec.learn(side, tokenizer="char", reserved=RESERVED) for side in zip(*pairs, strict=True)
    )
    torch.manual_seed(0)
    sizes = dict(zip(NAMES, (len(source.vocab), len(target.vocab)), strict=True))
    config = TranslatorConfig(**sizes, hidden_size=64, embedding_size=64, outer_dropout=0.0)
    options = Options(steps=200, batch_size=32, learning_rate=0.01)
    data = Pairs(pairs, source, target)
    trainer = TranslatorTraining(Translator(config), data, target.vocab.bos, options)
    train(trainer, data, save=lambda: None)
    assert evaluate_translator(trainer.model, data, target.vocab.bos).perplexity < 1.1
    found = list(translate(trainer.model, source, target, [pair.source for pair in pairs]))
    right = sum(t.candidates[0].text == pair.target for t, pair in zip(found, pairs, strict=True))
    assert right >= 95
    scores = corpus_scores([t.candidates[0].text for t in found], [[p.target] for p in pairs])
    # Of two or three words, there are no four in a row.
    assert scores["bleu"] == 0 and scores["chrf"] > 99


def test_checkpoints_that_do_not_fit(tmp_path: Path) -> None:
    trainer = TranslatorTraining(build(), PAIRS, BOS, OPTIONS)
    save_translator(tmp_path, *CODECS, trainer, {})
    with pytest.raises(CheckpointError, match="expected one of a language model, got 'translator'"):
        load_language_model(tmp_path)
    path = tmp_path / "checkpoint.json"
    record = json.loads(path.read_text())
    shorter = {**record["target"], "vocab": record["target"]["vocab"][:-1]}
    for changes, message in [
        ({"config": {**record["config"], "hidden_size": 5}}, "one that does not fit"),
        ({"config": {**record["config"], "heads": 5}}, "one that does not fit"),
        ({"target": shorter}, "expected a target vocabulary of .* as the weights have"),
        ({"source": {"vocab": ["a"]}}, "one that does not fit"),
        ({"options": None}, "one that does not fit"),
        ({"position": {}}, "one that does not fit"),
    ]:
        path.write_text(json.dumps({**record, **changes}))
        with pytest.raises(CheckpointError, match=message):
            load_translator(tmp_path).resume(PAIRS)


@pytest.mark.parametrize(
    "wrong, message",
    [
        (dict(cell="sru"), "cell: expected one of"),
        (dict(attention="self"), "attention: expected one of"),
        (dict(attend="during"), "attend: expected one of"),
        (dict(hidden_size=0), "hidden_size: expected at least 1, got 0"),
        (dict(dropout=1.0), "dropout: expected at least 0, below 1"),
        (dict(attention="dot"), "attention: expected memory_size 10 for 'dot', got 20"),
        (dict(tied=True), "tied: expected embedding_size equal to hidden_size"),
        (dict(shared_embedding=True), "shared_embedding: expected one vocabulary, got"),
    ],
)
def test_bad_configurations(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(**wrong)


@pytest.mark.parametrize(
    "wrong, message",
    [
        (dict(precision="float16"), "precision: expected one of"),
        (dict(patience=-1), "patience: expected at least 0, got -1"),
        (dict(average=-1), "average: expected at least 0, got -1"),
        (dict(steps=0), "steps: expected at least 1, got 0"),
        (dict(accumulate=0), "accumulate: expected at least 1, got 0"),
        (dict(warm_up=0), "warm_up: expected at least 1, got 0"),
        (dict(label_smoothing=1.0), "label_smoothing: expected at least 0, below 1, got 1.0"),
        (dict(weight_decay=-1.0), "weight_decay: expected 0 or more, got -1.0"),
    ],
)
def test_bad_options(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Options(**wrong)


def test_empty_side_of_a_pair() -> None:
    data = Pairs([Pair("", "x"), Pair("one", "")], *CODECS)
    assert data.encoded[0].source == [CODECS[0].vocab.eos]
    assert math.isfinite(evaluate_translator(build(), data, BOS).perplexity)
