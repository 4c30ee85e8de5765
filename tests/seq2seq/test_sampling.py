# SPDX-License-Identifier: MIT
"""Sampling: what is drawn, how often, and what is said of it."""

import math
from typing import Any

import pytest
import torch
from searched import BASE, EOS, PAD, STARTS, Chaos

from fused_rnn.seq2seq import greedy_search, sample, score

OPTIONS: dict[str, Any] = {**BASE, "max_length": 8}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    "near", [dict(temperature=0), dict(temperature=1e-30), dict(top_k=1), dict(top_p=1e-9)], ids=str
)
def test_the_likeliest_is_the_greedy_one(near: dict[str, float]) -> None:
    for more in ({}, dict(ban=(3,), min_length=5), dict(no_repeat_ngram=1)):
        greedy = greedy_search(Chaos(8), STARTS, **OPTIONS, **more)
        drawn = sample(Chaos(8), STARTS, **OPTIONS, **near, **more, num_samples=2)
        for one, other in zip(drawn[:6], greedy[:6], strict=True):
            assert torch.equal(one, other.expand_as(one))


@pytest.mark.parametrize(
    "options, weights",
    [
        (dict(), [0.4, 0.3, 0.2, 0.1]),
        (dict(temperature=0.5), [0.16, 0.09, 0.04, 0.01]),
        (dict(top_k=2), [0.4, 0.3, 0, 0]),
        (dict(top_p=0.69), [0.4, 0.3, 0, 0]),
        (dict(top_p=0.71), [0.4, 0.3, 0.2, 0]),
        (dict(top_p=0.4), [0.4, 0, 0, 0]),
        (dict(top_k=3, top_p=0.8), [0.4, 0.3, 0.2, 0]),
        (dict(temperature=0.5, top_p=0.53), [0.16, 0, 0, 0]),
        (dict(ban=(0,)), [0, 0.3, 0.2, 0.1]),
    ],
)
def test_frequencies(options: dict[str, Any], weights: list[float]) -> None:
    class Fixed(Chaos):
        def step(self, tokens: torch.Tensor, state: torch.Tensor) -> tuple:
            return torch.tensor([0.4, 0.3, 0.2, 0.1]).log().expand(len(tokens), 4), state

    count = 20_000
    found = sample(
        Fixed(4),
        torch.zeros(1),
        bos=0,
        eos=None,
        pad=9,
        max_length=1,
        num_samples=count,
        generator=generator(),
        **options,
    )
    seen = found.tokens.flatten().bincount(minlength=4)
    for number, weight in zip(seen.tolist(), weights, strict=True):
        p = weight / sum(weights)
        # Five standard deviations, from a fixed seed.
        assert abs(number - count * p) <= 5 * math.sqrt(count * p * (1 - p))
    known = torch.tensor([0.4, 0.3, 0.2, 0.1]).log().log_softmax(-1)
    assert torch.equal(found.log_probs, known[found.tokens.squeeze(2)])


def test_of_equal_tokens_the_lowest_are_kept() -> None:
    class Even(Chaos):
        def step(self, tokens: torch.Tensor, state: torch.Tensor) -> tuple:
            return torch.tensor([0.0, 1, 1, 1]).expand(len(tokens), 4), state

    drawn = sample(
        Even(4), STARTS, bos=0, eos=None, pad=9, max_length=40, top_k=2, generator=generator()
    )
    assert drawn.tokens.unique().tolist() == [1, 2]


def test_figures_are_the_models_own() -> None:
    model = Chaos(9)
    for more in (dict(temperature=3.0, top_k=5), dict(top_p=0.9, ban=(4,)), dict(min_length=8)):
        found = sample(
            model, STARTS, **OPTIONS, num_samples=7, generator=generator(), check_every=3, **more
        )
        assert found.tokens.shape == (5, 7, 8) and len(found.tokens.flatten(0, 1).unique(dim=0)) > 9
        again = score(model, STARTS, found.tokens, **BASE)
        for one, other in zip(found[:6], again[:6], strict=True):
            assert torch.equal(one, other)
        ended = (found.tokens == EOS).any(2)
        assert torch.equal(found.finished, ended)


def test_a_seed_draws_the_same() -> None:
    def drawn(seed: int, **more: Any) -> list:
        return sample(
            Chaos(9), STARTS, **OPTIONS, generator=generator(seed), **more
        ).tokens.tolist()

    assert drawn(1) == drawn(1) != drawn(2)
    assert drawn(1, check_every=1) == drawn(1, check_every=8)


def test_dead_ends_reach_nothing() -> None:
    class Dead(Chaos):
        def step(self, tokens: torch.Tensor, state: torch.Tensor) -> tuple:
            logits, state = super().step(tokens, state)
            dead = logits.clone()
            dead[tokens == 2] = -math.inf
            return dead, state

    found = sample(Dead(6, 0.1), STARTS, **OPTIONS, num_samples=40, generator=generator())
    dead = found.lengths == 0
    assert dead.any() and not dead.all() and not found.finished[dead].any()
    assert found.scores[dead].unique().tolist() == [-math.inf]
    assert found.tokens[dead].unique().tolist() == [PAD]
    # A two may come last, where nothing has to follow.
    assert not (found.tokens[~dead][:, :-1] == 2).any()
    with pytest.raises(ValueError, match="NaN or infinity"):
        nan = Chaos(6)
        nan.table[:] = math.nan
        sample(nan, STARTS, **OPTIONS)


@pytest.mark.parametrize(
    "wrong, message",
    [
        (dict(temperature=-1.0), "temperature: expected 0 or more"),
        (dict(temperature=math.nan), "temperature: expected 0 or more"),
        (dict(top_k=-1), "top_k: expected 0 or more"),
        (dict(top_p=0.0), "top_p: expected more than 0"),
        (dict(top_p=1.1), "top_p"),
        (dict(num_samples=0), "num_samples: expected at least 1"),
        (dict(check_every=0), "check_every: expected at least 1"),
    ],
)
def test_bad_arguments(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sample(Chaos(6), STARTS, **OPTIONS, **wrong)
