# SPDX-License-Identifier: MIT
"""Beam, greedy and exhaustive search against definitions written out on lists."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from searched import (
    BASE,
    EOS,
    PREFIX,
    STARTS,
    Chaos,
    Found,
    Path,
    Tree,
    allowed,
    divisor,
    listed,
    naive,
    same,
)
from torch import Tensor

from fused_rnn.seq2seq import Hypotheses, beam_search, exhaustive_search, greedy_search

VARIANTS: list[dict[str, Any]] = [
    {},
    dict(beam_size=1),
    dict(beam_size=1, stop="exact"),
    dict(beam_size=2, n_best=2),
    dict(beam_size=3, n_best=3, stop="exact"),
    dict(beam_size=4, n_best=2, normalization="gnmt", length_penalty=1.2),
    dict(beam_size=4, n_best=2, normalization="gnmt", length_penalty=0.6, stop="exact"),
    dict(beam_size=5, n_best=5, normalization="none", stop="exact"),
    dict(beam_size=3, n_best=2, length_penalty=-0.5, stop="exact"),
    dict(beam_size=4, n_best=4, length_penalty=0.0),
    dict(beam_size=4, n_best=4, min_length=5),
    dict(beam_size=3, n_best=3, min_length=8),
    dict(beam_size=4, n_best=4, ban=(3, 4)),
    dict(beam_size=4, n_best=4, ban=(EOS,)),
    dict(beam_size=4, n_best=4, allow=(2, 5)),
    dict(beam_size=5, n_best=5, allow=()),
    dict(beam_size=4, n_best=4, no_repeat_ngram=1),
    dict(beam_size=4, n_best=4, no_repeat_ngram=2, allow=(2, 5)),
    dict(beam_size=3, n_best=3, no_repeat_ngram=3, allow=(2,)),
    dict(beam_size=4, n_best=4, prefix=PREFIX),
    dict(beam_size=4, n_best=3, prefix=PREFIX, ban=(4, 6, EOS), min_length=4, stop="exact"),
    dict(beam_size=1, prefix=PREFIX, no_repeat_ngram=1),
    dict(beam_size=40, n_best=40, max_length=3),
    dict(beam_size=2, n_best=2, max_length=1),
]


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: "-".join(v) or "default")
def test_beam_is_its_definition(variant: dict[str, Any]) -> None:
    for seed, size, sharpness, check_every in ((0, 8, 2.0, 1), (1, 7, 0.5, 3), (2, 8, 6.0, 8)):
        model, options = Chaos(size, sharpness, seed), {"max_length": 8, **variant}
        found = beam_search(model, STARTS, **BASE, **options, check_every=check_every)
        assert found.tokens.shape == (5, options.get("n_best", 1), options["max_length"])
        for row, start in enumerate(STARTS.tolist()):
            expected = naive(model, start, row, T=options["max_length"], **variant)
            same(listed(found, row), expected)


@pytest.mark.parametrize("beam_size", [1, 2, 5])
def test_long_rows(beam_size: int) -> None:
    """A vocabulary that is looked through in chunks, the last one short."""
    model = Chaos(1003, 5.0)
    found = beam_search(model, STARTS, **BASE, max_length=6, beam_size=beam_size, n_best=beam_size)
    for row, start in enumerate(STARTS.tolist()):
        options = dict(beam_size=beam_size, n_best=beam_size)
        same(listed(found, row), naive(model, start, row, T=6, **options))


def test_greedy_is_a_beam_of_one_and_argmax() -> None:
    model = Chaos(8, 1.0)
    for options in ({}, dict(min_length=4, ban=(3,)), dict(prefix=PREFIX, no_repeat_ngram=2)):
        found = greedy_search(model, STARTS, **BASE, max_length=9, **options)
        for stop in ("k", "exact"):
            beam = beam_search(
                model, STARTS, **BASE, max_length=9, beam_size=1, stop=stop, **options
            )
            assert all(torch.equal(a, b) for a, b in zip(found[:6], beam[:6], strict=True))
        for row, start in enumerate(STARTS.tolist()):
            path: Path = ()
            while len(path) < 9 and path[-1:] != (EOS,):
                gains = model.log_probs(start, path)
                able = [v for v in range(8) if allowed(path, v, row, options)]
                path = (*path, max(able, key=lambda v: (gains[v], -v)))
            assert listed(found, row)[0][2] == path


@pytest.mark.parametrize(
    "normalization, penalty, more",
    [
        ("length", 0.75, {}),
        ("length", 2.0, dict(ban=(2,), min_length=3)),
        ("gnmt", 1.0, dict(no_repeat_ngram=1)),
        ("none", 0.75, {}),
    ],
    ids=str,
)
def test_exhaustive_search_equals_lists_and_a_wide_beam(
    normalization: str, penalty: float, more: dict[str, Any]
) -> None:
    model, V, T = Chaos(5, 1.5), 5, 4
    options = dict(normalization=normalization, length_penalty=penalty, n_best=9, **more)
    found = exhaustive_search(model, STARTS, **BASE, max_length=T, **options)
    wide = beam_search(model, STARTS, **BASE, max_length=T, beam_size=V**T, **options)
    for row, start in enumerate(STARTS.tolist()):
        every: list[Found] = []
        for path in (p for n in range(1, T + 1) for p in itertools.product(range(V), repeat=n)):
            length = len(path)
            if EOS in path[:-1] or (path[-1] != EOS and length < T):
                continue
            if not all(allowed(path[:i], path[i], row, options) for i in range(length)):
                continue
            total = np.float32(0)
            for i in range(length):
                total += model.log_probs(start, path[:i])[path[i]]
            ending = total / divisor(normalization, length, penalty)
            every.append((path[-1] == EOS, ending, path, total))
        every.sort(key=lambda one: (not one[0], -one[1]))
        same(listed(found, row), every[:9])
        same(listed(wide, row), every[:9])


A, B_, C, END = 0, 1, 2, 3


def test_the_books_figures() -> None:
    """Greedy search finds A B C <eos>, 0.048; A C B <eos> has 0.054."""
    model = Tree(
        {
            (): [0.5, 0.2, 0.2, 0.1],
            (A,): [0.1, 0.4, 0.3, 0.2],
            (A, B_): [0.2, 0.2, 0.4, 0.2],
            (A, B_, C): [0.0, 0.2, 0.2, 0.6],
            (A, C): [0.1, 0.6, 0.2, 0.1],
            (A, C, B_): [0.1, 0.2, 0.1, 0.6],
        }
    )
    start = torch.zeros(1, 0, dtype=torch.int64)
    options = dict(bos=A, eos=END, pad=-1, max_length=4, normalization="none")
    greedy = greedy_search(model, start, **options)
    assert greedy.tokens.tolist() == [[[A, B_, C, END]]]
    assert greedy.log_probs.exp().item() == pytest.approx(0.048, rel=1e-6)
    # What ends earlier would win without a normalization, so none is let to.
    options |= dict(min_length=4)
    best = exhaustive_search(model, start, **options)
    assert best.tokens.tolist() == [[[A, C, B_, END]]]
    assert best.log_probs.exp().item() == pytest.approx(0.054, rel=1e-6)
    beam = beam_search(model, start, **options, beam_size=2)
    assert torch.equal(beam.tokens, best.tokens) and torch.equal(beam.scores, best.scores)


def test_places_that_nothing_reaches() -> None:
    model = Tree({(): [0.5, 0.0, 0.0, 0.5], (A,): [0.0, 0.0, 0.0, 1.0]})
    found = beam_search(
        model, torch.zeros(2, 0), bos=A, eos=END, pad=7, max_length=5, beam_size=50, n_best=4
    )
    assert (
        found.lengths.tolist() == [[2, 1, 0, 0]] * 2 or found.lengths.tolist() == [[1, 2, 0, 0]] * 2
    )
    assert found.scores[:, 2:].tolist() == [[-math.inf] * 2] * 2
    assert found.tokens[:, 2:].unique().tolist() == [7] and not found.finished[:, 2:].any()


def test_no_probability_anywhere() -> None:
    model = Tree({(): [1.0, 0.0, 0.0, 0.0], (A,): [0.0, 0.0, 0.0, 0.0]})
    for search in (greedy_search, beam_search, exhaustive_search):
        found = search(model, torch.zeros(2, 0), bos=A, eos=END, pad=7, max_length=4)
        assert found.lengths.tolist() == [[0]] * 2 and not found.finished.any()
        assert found.scores.tolist() == found.log_probs.tolist() == [[-math.inf]] * 2
    found = greedy_search(model, torch.zeros(1, 0), bos=A, eos=END, pad=7, max_length=1)
    assert found.tokens.tolist() == [[[A]]] and not found.finished.any()


def test_ties_go_to_the_lowest_token_of_the_better_hypothesis() -> None:
    for size in (4, 300):
        model = Tree({(): [1 / size] * size})
        found = beam_search(
            model,
            torch.zeros(1, 0),
            bos=0,
            eos=3,
            pad=7,
            max_length=2,
            beam_size=3,
            n_best=3,
            normalization="none",
            min_length=2,
        )
        # The end of the first, [0, 3], ranks fourth.
        assert found.tokens[0].tolist() == [[0, 0], [0, 1], [0, 2]]
        greedy = greedy_search(model, torch.zeros(1, 0), bos=0, eos=3, pad=7, max_length=3)
        assert greedy.tokens.tolist() == [[[0, 0, 0]]]


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("search", [greedy_search, beam_search, exhaustive_search])
def test_logits_that_are_no_numbers(search: Callable[..., Hypotheses], value: float) -> None:
    class Broken(Chaos):
        def step(self, tokens: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
            logits, state = super().step(tokens, state)
            broken = logits.clone()
            broken[tokens == 2, 4] = value
            return broken, state

    model = Broken(6, 1.0)
    # Where no row that matters has them, nothing is wrong.
    found = search(model, STARTS, **BASE, max_length=4, ban=(2,))
    same(listed(found, 1), listed(search(Chaos(6, 1.0), STARTS, **BASE, max_length=4, ban=(2,)), 1))
    with pytest.raises(ValueError, match="logits: expected numbers below infinity, got NaN or inf"):
        search(model, STARTS, **BASE, max_length=4, prefix=torch.full((5, 1), 2))
