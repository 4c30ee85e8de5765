# SPDX-License-Identifier: MIT
"""Limits of each sentence's own, room that grows, and what does not fit."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import recorded_graph
import torch
from searched import BASE, BOS, EOS, PAD, STARTS, Chaos, listed, naive, same

from fused_rnn.seq2seq import (
    Hypotheses,
    LanguageModel,
    LanguageModelConfig,
    RNNEncoder,
    beam_search,
    exhaustive_search,
    generate,
    greedy_search,
    sample,
    score,
)
from fused_rnn.seq2seq.search import graphs, rowwise, search

LIMITS = torch.tensor([8, 1, 5, 2, 11])
SEARCHES: list[dict[str, Any]] = [
    {},
    dict(beam_size=1),
    dict(beam_size=4, n_best=4, stop="exact"),
    dict(beam_size=4, n_best=3, stop="exact", length_penalty=1.5),
    dict(beam_size=3, n_best=3, stop="exact", length_penalty=-0.5),
    dict(beam_size=4, n_best=2, normalization="gnmt", length_penalty=0.6, stop="exact"),
    dict(beam_size=4, n_best=4, ban=(EOS,)),
    dict(beam_size=3, n_best=3, no_repeat_ngram=2),
]


@pytest.mark.parametrize("options", SEARCHES, ids=lambda v: "-".join(v) or "default")
def test_each_sentence_stops_at_its_own_limit(options: dict[str, Any]) -> None:
    for seed, size, sharpness, check_every in ((0, 8, 2.0, 1), (1, 7, 0.5, 3), (2, 8, 6.0, 8)):
        model = Chaos(size, sharpness, seed)
        found = beam_search(
            model, STARTS, **BASE, max_length=LIMITS, **options, check_every=check_every
        )
        assert found.tokens.size(2) <= 11
        for row, (start, limit) in enumerate(zip(STARTS.tolist(), LIMITS.tolist(), strict=True)):
            same(listed(found, row), naive(model, start, row, T=limit, **options))


def test_greedy_and_drawn_rows_stop_at_their_own_limits() -> None:
    model = Chaos(8, 1.0)
    found = greedy_search(model, STARTS, **BASE, max_length=LIMITS)
    drawn = sample(model, STARTS, **BASE, max_length=LIMITS, num_samples=2, temperature=0)
    for row, (start, limit) in enumerate(zip(STARTS.tolist(), LIMITS.tolist(), strict=True)):
        alone = greedy_search(model, torch.tensor([start]), **BASE, max_length=limit)
        same(listed(found, row), listed(alone, 0))
        same(listed(drawn, row), listed(alone, 0) * 2)
    endless = greedy_search(model, STARTS, bos=BOS, eos=None, pad=PAD, max_length=LIMITS)
    assert endless.lengths.flatten().tolist() == LIMITS.tolist() and not endless.finished.any()


@pytest.mark.parametrize("find", [greedy_search, beam_search, sample])
def test_limits_in_a_graph(
    find: Callable[..., Hypotheses], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(1)
    model = LanguageModel(LanguageModelConfig(17, hidden_size=8))
    options = dict(bos=2, eos=3, pad=1, max_length=torch.tensor([20, 3, 9]))
    state = model.initial_state(3)
    torch.manual_seed(5)
    expected = find(model, state, **options)
    monkeypatch.setattr(graphs, "has_graphs", lambda device: True)
    monkeypatch.setattr(graphs, "record", recorded_graph.record)
    torch.manual_seed(5)
    found = find(model, state, **options)
    for one, other in zip(found[:6], expected[:6], strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("more", [{}, dict(eos=None), dict(no_repeat_ngram=2)], ids=str)
def test_room_grows_with_the_steps(more: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    model, options = Chaos(9), {**BASE, "max_length": 13, **more}
    finds: list[Callable[..., Hypotheses]] = [greedy_search, beam_search]
    expected = [find(model, STARTS, **options) for find in finds]
    for module in (search, rowwise):
        monkeypatch.setattr(module, "FIRST_STEPS", 2)
    for find, before in zip(finds, expected, strict=True):
        for one, other in zip(find(model, STARTS, **options)[:6], before[:6], strict=True):
            assert torch.equal(one, other)


def test_a_limit_takes_no_memory() -> None:
    model = Chaos(6)
    model.table[:, EOS] += 5
    huge = torch.full((5,), 10**9)
    for options in ({}, dict(beam_size=1)):
        found = beam_search(model, STARTS, **BASE, max_length=huge, **options)
        assert bool(found.finished.all()) and found.tokens.size(2) < 50
    assert bool(greedy_search(model, STARTS, **BASE, max_length=huge).finished.all())


@pytest.mark.parametrize(
    "wrong, message",
    [
        (dict(length_penalty=math.nan), "length_penalty: expected a finite number, got nan"),
        (dict(length_penalty=math.inf), "length_penalty: expected a finite number, got inf"),
        (dict(length_penalty=1000.0), "length_penalty: .* divisor of 8 tokens, got 1000"),
        (dict(length_penalty=60.0), "length_penalty: .* divisor of 8 tokens, got 60"),
        (dict(length_penalty=-1000.0), "length_penalty: .* divisor of 8 tokens, got -1000"),
        (dict(normalization="gnmt", length_penalty=5000.0), "length_penalty: .* got 5000"),
        (dict(prefix=torch.full((5, 1), 8)), r"prefix: expected tokens from 0 to 7, got \[8\]"),
        (dict(prefix=torch.full((5, 1), -3)), r"prefix: expected tokens from 0 to 7, got \[-3\]"),
        (dict(max_length=LIMITS[:2]), "max_length: expected 5 of them, got 2"),
        (dict(max_length=LIMITS - 1), "max_length: expected at least 1, got 0"),
        (dict(max_length=LIMITS.float()), "max_length: expected integers"),
        (dict(max_length=LIMITS[:0]), r"max_length: expected integers, \(B,\), got .* \(0,\)"),
        (dict(max_length=LIMITS, min_length=2), "min_length: expected 0 to max_length 1, got 2"),
    ],
)
def test_what_does_not_fit(wrong: dict[str, Any], message: str) -> None:
    for find in (greedy_search, beam_search, sample):
        with pytest.raises(ValueError, match=message):
            find(Chaos(8), STARTS, **{**BASE, "max_length": 8, **wrong})
    if "length_penalty" in wrong:
        with pytest.raises(ValueError, match=message):
            exhaustive_search(Chaos(8), STARTS[:1], **BASE, max_length=8, **wrong)


def test_no_sentence_and_no_step() -> None:
    for find in (greedy_search, beam_search, sample, exhaustive_search):
        with pytest.raises(ValueError, match="state: expected at least one row, got none"):
            find(Chaos(8), STARTS[:0], **BASE, max_length=3)
    model = LanguageModel(LanguageModelConfig(9, "lstm", hidden_size=4))
    with pytest.raises(ValueError, match="state: expected at least one row, got none"):
        greedy_search(model, model.initial_state(0), **BASE, max_length=3)
    encoder = RNNEncoder(9, 4, 4)
    with pytest.raises(ValueError, match=r"tokens: expected \(B, S\) with S at least 1, got"):
        encoder(torch.zeros(2, 0, dtype=torch.int64))


def test_scores_of_nothing() -> None:
    empty = torch.zeros(5, 0, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"targets: expected a first token, got \(5, 0\)"):
        score(Chaos(8), STARTS, empty)
    with pytest.raises(ValueError, match=r"at least one for each sentence, got \(5, 0, 2\)"):
        score(Chaos(8), STARTS, torch.zeros(5, 0, 2, dtype=torch.int64), bos=BOS)
    for targets in (empty, torch.full((5, 3), PAD)):
        found = score(Chaos(8), STARTS, targets, bos=BOS, eos=EOS, pad=PAD)
        assert not found.lengths.any() and not found.finished.any()
        # Nothing is sure to begin with nothing.
        assert not found.log_probs.any() and not found.scores.any()


def test_a_text_that_is_watched_and_one_that_cannot_go_on() -> None:
    model, prefix = LanguageModel(LanguageModelConfig(5, hidden_size=6)), torch.tensor([1, 2])

    def written(**options: Any) -> list[int]:
        return generate(model, prefix, 30, generator=torch.Generator().manual_seed(3), **options)

    whole, seen = written(), []

    def watch(number: int) -> bool:
        seen.append(number)
        return len(seen) == 11

    assert written(watch=watch) == seen == whole[:11]
    assert set(written(temperature=math.inf, ban=(0, 3))) == {1, 2, 4}
    assert set(written(temperature=1e308, ban=(0, 3))) == {1, 2, 4}
    assert len(set(written(temperature=50.0, top_k=2))) == 2
    assert written(top_p=1e-9) == written(temperature=0)
    for wrong, message in [
        (dict(ban=range(5)), "ban: expected some of the 5 tokens to be left, got all of them"),
        (dict(top_k=-1), "top_k: expected 0 or more"),
    ]:
        with pytest.raises(ValueError, match=message):
            written(**wrong)
    for strange in ([5], [1, -1]):
        with pytest.raises(ValueError, match="prefix: expected tokens from 0 to 4, got"):
            generate(model, torch.tensor(strange), 1)
    assert len(generate(model, prefix, 10**9, watch=lambda number: True)) == 1
