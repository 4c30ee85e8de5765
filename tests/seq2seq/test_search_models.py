# SPDX-License-Identifier: MIT
"""Searches over models: batches, padding, scores, when the host waits, bad arguments."""

from typing import Any

import numpy as np
import pytest
import torch
from searched import BASE, BOS, EOS, PAD, PREFIX, STARTS, Chaos
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from fused_rnn.seq2seq import (
    AttentionDecoder,
    EncoderDecoder,
    LanguageModel,
    LanguageModelConfig,
    RNNDecoder,
    RNNEncoder,
    beam_search,
    exhaustive_search,
    greedy_search,
    score,
)
from fused_rnn.seq2seq.search.stepping import Stepper, rows_of
from fused_rnn.testing import assert_within_budget


def test_results_do_not_depend_on_the_batch() -> None:
    model = Chaos(40, 2.0)
    options = dict(**BASE, max_length=12, beam_size=4, n_best=4)
    whole = beam_search(model, STARTS, **options)
    for rows in ([0], [4, 1], [2, 2, 2, 0, 1, 3, 4]):
        part = beam_search(model, STARTS[rows], **options)
        for one, other in zip(part[:6], whole[:6], strict=True):
            assert torch.equal(one, other[rows])


def translator(kind: str) -> EncoderDecoder:
    encoder = RNNEncoder(12, 6, 8, 2, 0.5, cell="lstm", bidirectional=True)
    if kind == "fixed":
        decoder = RNNDecoder(12, 6, 8, 2, 0.5, cell="lstm")
    else:
        options = dict(cell="lstm", attention="additive", attend=kind, memory_size=16)
        decoder = AttentionDecoder(12, 6, 8, 2, 0.5, **options)
    model = EncoderDecoder(encoder, decoder)
    for parameter in model.parameters():
        # Sharper than the usual start, so that sentences end.
        torch.nn.init.normal_(parameter, std=0.8)
    with torch.no_grad():
        decoder.output.bias[EOS] += 4
    return model


@pytest.mark.parametrize("kind", ["fixed", "after", "before"])
def test_sentences_alone_and_in_padded_company(in_float64: None, kind: str) -> None:
    model = translator(kind)
    source, lengths = torch.randint(12, (6, 9)), torch.tensor([9, 1, 4, 0, 7, 4])
    options = dict(**BASE, max_length=10, beam_size=3, n_best=3, return_attention=kind != "fixed")
    with torch.no_grad():
        model.eval()
        whole = beam_search(model, model.encode(source, lengths), **options)
        for row, length in enumerate(lengths.tolist()):
            own = source[row : row + 1, : max(length, 1)]
            alone = beam_search(model, model.encode(own, lengths[row : row + 1]), **options)
            assert torch.equal(alone.tokens[0], whole.tokens[row])
            for name in ("scores", "token_log_probs"):
                one, other = getattr(alone, name)[0], getattr(whole, name)[row]
                assert_within_budget(other, one.double(), one, name=name)
            if kind != "fixed":
                width = own.size(1)
                one, other = alone.attention[0], whole.attention[row]
                assert_within_budget(other[..., :width], one.double(), one, name="attention")
                assert not other[..., length:].any()


@pytest.mark.parametrize("kind", ["fixed", "after", "before"])
def test_scores_are_those_of_the_sequences(in_float64: None, kind: str) -> None:
    """A search's figures are what teacher forcing gives, attention included; dropout is off."""
    model = translator(kind).train()
    source, lengths = torch.randint(12, (4, 5)), torch.tensor([5, 2, 4, 1])
    looks = kind != "fixed"
    with torch.no_grad():
        state = model.eval().encode(source, lengths)
        model.train()
    options = dict(max_length=7, beam_size=3, n_best=3, ban=(PAD,), return_attention=looks)
    found = beam_search(model, state, **BASE, **options)
    assert model.training
    again = score(model, state, found.tokens, **BASE, return_attention=looks)
    assert torch.equal(again.lengths, found.lengths)
    assert torch.equal(again.finished, found.finished) and found.finished.any()
    for name in ("scores", "log_probs", "token_log_probs", *(["attention"] if looks else [])):
        one, other = getattr(found, name), getattr(again, name)
        assert_within_budget(other, one.double(), one, name=name)
    best = found.tokens[:, 0]
    targets = torch.cat((torch.zeros(4, 1, dtype=torch.int64), best), 1)
    logits = model.eval()(source, targets[:, :-1], lengths).logits
    truth, reference = (
        gains.log_softmax(-1)
        .gather(2, best.clamp(max=11).unsqueeze(2))
        .squeeze(2)
        .masked_fill(torch.arange(7) >= found.lengths[:, :1], 0)
        for gains in (logits, logits.float())
    )
    assert_within_budget(found.token_log_probs[:, 0], truth.detach(), reference.detach())
    with_first = score(model, state, targets, eos=EOS, pad=PAD)
    assert torch.equal(with_first.log_probs, again.log_probs[:, :1])


def test_score_of_unpadded_targets_and_bad_ones() -> None:
    model = Chaos(8)
    targets = torch.tensor([[2, 3, 4], [5, EOS, 6], [2, 2, 2], [7, 7, 0], [EOS, 0, 0]])
    found = score(model, STARTS, targets, bos=BOS)
    assert found.lengths.tolist() == [[3]] * 5 and bool(found.finished.all())
    ended = score(model, STARTS, targets, bos=BOS, eos=EOS)
    assert ended.lengths.flatten().tolist() == [3, 2, 3, 3, 1]
    assert ended.finished.flatten().tolist() == [False, True, False, False, True]
    total = np.float32(0)
    for i in range(3):
        total += model.log_probs(3, (2, 3, 4)[:i])[(2, 3, 4)[i]]
    assert found.log_probs[0, 0].item() == total
    for wrong, message in [
        (targets[:2], "targets: expected 5 rows as the state has, got 2"),
        (targets[0], "targets: expected .B, T. or"),
        (targets + 1, "targets: expected tokens from 0 to 7, got 1 to 8"),
    ]:
        with pytest.raises(ValueError, match=message):
            score(model, STARTS, wrong, bos=BOS)


def test_language_model_goes_on_from_a_state() -> None:
    model = LanguageModel(LanguageModelConfig(9, "lstm", hidden_size=8, num_layers=2))
    _, state = model.eval()(torch.randint(9, (4, 3)))
    last = torch.tensor([4, 5, 6])
    found = greedy_search(model, state, bos=last, eos=None, pad=0, max_length=5)
    assert found.lengths.tolist() == [[5]] * 3 and not found.finished.any()
    tokens = last
    for step in range(5):
        logits, state = model.step(tokens, state)
        tokens = logits.argmax(-1)
        assert torch.equal(found.tokens[:, 0, step], tokens)


class Syncs(TorchDispatchMode):
    """Counts what would make the host wait for a device."""

    WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "unique")

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func.overloadpacket.__name__.startswith(self.WAITING)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("check_every, looks", [(1, 20), (8, 3), (100, 1)])
def test_the_host_waits_now_and_then_only(
    monkeypatch: pytest.MonkeyPatch, check_every: int, looks: int
) -> None:
    asked: list[bool] = []
    original = Stepper.any_left

    def any_left(self: Stepper, alive: Tensor) -> bool:
        asked.append(original(self, alive))
        return asked[-1]

    monkeypatch.setattr(Stepper, "any_left", any_left)
    model = Chaos(30)
    options = dict(**BASE, max_length=20, ban=(EOS,), no_repeat_ngram=2, prefix=PREFIX)
    with Syncs() as syncs:
        beam_search(model, STARTS, **options, beam_size=3, check_every=check_every)
    assert len(asked) == looks and syncs.count == 0


def test_search_ends_early() -> None:
    steps: list[int] = []

    class Counting(Chaos):
        def step(self, tokens: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
            steps.append(len(tokens))
            return super().step(tokens, state)

    model = Counting(6)
    model.table[:, EOS] += 5
    found = beam_search(model, STARTS, **BASE, max_length=500, beam_size=3, check_every=4)
    assert bool(found.finished.all()) and len(steps) < 20
    # At first a sentence has one hypothesis, behind that as many as the beam is wide.
    assert steps[0] == 5 and set(steps[1:]) == {15}


def test_rows_of_a_state() -> None:
    model = LanguageModel(LanguageModelConfig(5, "lstm", hidden_size=4))
    assert rows_of(model, model.initial_state(7)).sentences == 7
    both = translator("before")
    assert rows_of(both, both.encode(torch.zeros(3, 2, dtype=torch.int64))).sentences == 3

    class Mapped(Chaos):
        def reorder(self, state: Any, index: Tensor) -> Any:
            return {"hash": state["hash"][:, index], "fixed": state["fixed"]}

    state = {"hash": torch.zeros(1, 6), "fixed": [torch.zeros(2, 3), None]}
    assert rows_of(Mapped(5), state).sentences == 6


@pytest.mark.parametrize(
    "wrong, message",
    [
        (dict(beam_size=0), "beam_size: expected at least 1, got 0"),
        (dict(n_best=6), "n_best: expected 1 to beam_size 5, got 6"),
        (dict(n_best=0), "n_best"),
        (dict(max_length=0), "max_length: expected at least 1, got 0"),
        (dict(min_length=9), "min_length: expected 0 to max_length 8, got 9"),
        (dict(no_repeat_ngram=-1), "no_repeat_ngram: expected 0 or more"),
        (dict(normalization="mean"), "normalization: expected one of .*, got 'mean'"),
        (dict(stop="soon"), "stop: expected one of .*, got 'soon'"),
        (dict(check_every=0), "check_every: expected at least 1"),
        (dict(ban=(3, 12)), r"ban: expected tokens from 0 to 7, got \[12\]"),
        (dict(allow=(-1,)), r"allow: expected tokens from 0 to 7, got \[-1\]"),
        (dict(eos=8), r"eos: expected tokens from 0 to 7, got \[8\]"),
        (dict(prefix=PREFIX[:2]), "prefix: expected 5 rows, got 2"),
        (dict(prefix=PREFIX[0]), r"prefix: expected \(B, P\)"),
        (dict(prefix=PREFIX.repeat(1, 3)), "prefix: .* at most max_length 8"),
        (dict(prefix=PREFIX.float()), "prefix: expected integers"),
        (dict(bos=torch.zeros(3)), r"bos: expected \(5,\), got \(3,\)"),
        (dict(return_attention=True), "model: expected one with attention, got Chaos"),
    ],
)
def test_bad_arguments(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        beam_search(Chaos(8), STARTS, **{**BASE, "max_length": 8, **wrong})


def test_too_many_sequences() -> None:
    with pytest.raises(ValueError, match="at most 100,000 sequences, got up to 83,886,080"):
        exhaustive_search(Chaos(8), STARTS, **BASE, max_length=8)
