# SPDX-License-Identifier: MIT
"""Beam, greedy and exhaustive search against definitions written out on lists."""

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from fused_rnn.seq2seq import (
    AttentionDecoder,
    EncoderDecoder,
    Hypotheses,
    LanguageModel,
    LanguageModelConfig,
    RNNDecoder,
    RNNEncoder,
    beam_search,
    exhaustive_search,
    greedy_search,
    score,
)
from fused_rnn.seq2seq.selection import top
from fused_rnn.seq2seq.stepping import Stepper, rows_of
from fused_rnn.testing import assert_within_budget

BOS, EOS, PAD = 0, 1, 9
BASE = dict(bos=BOS, eos=EOS, pad=PAD)
Path = tuple[int, ...]
Found = tuple[bool, float, Path, np.float32]


class Chaos:
    """Logits looked up by a hash of all that came before: every row's are its own, bit for bit."""

    def __init__(self, size: int, sharpness: float = 2.0, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.table = sharpness * torch.randn(997, size, generator=generator)
        self.known: dict[tuple[int, Path], np.ndarray] = {}

    def step(self, tokens: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        state = (state * 31 + tokens + 7) % 997
        return self.table[state], state

    def reorder(self, state: Tensor, index: Tensor) -> Tensor:
        return state[index]

    def log_probs(self, start: int, path: tuple[int, ...]) -> np.ndarray:
        """Of the token after a path."""
        if (start, path) not in self.known:
            state = torch.tensor([start])
            for token in (BOS, *path):
                logits, state = self.step(torch.tensor([token]), state)
            self.known[start, path] = logits[0].log_softmax(-1).numpy()
        return self.known[start, path]


def divisor(name: str, length: int, penalty: float) -> np.float32:
    powers = {"length": length**penalty, "gnmt": ((5 + length) / 6) ** penalty, "none": 1.0}
    return np.float32(powers[name])


def allowed(path: Path, token: int, row: int, options: dict[str, Any]) -> bool:
    prefix = options.get("prefix")
    if prefix is not None and len(path) < prefix.size(1):
        forced = int(prefix[row, len(path)])
        if forced != PAD:
            return token == forced
    if token in options.get("ban", ()):
        return False
    if options.get("allow") is not None and token not in (*options["allow"], EOS):
        return False
    if token == EOS and len(path) + 1 < options.get("min_length", 0):
        return False
    n = options.get("no_repeat_ngram", 0)
    longer = (*path, token)
    grams = [longer[i : i + n] for i in range(len(longer) - n + 1)] if n else []
    return not grams or grams[-1] not in grams[:-1]


def naive(model: Chaos, start: int, row: int, T: int, **options: Any) -> list[Found]:
    """One sentence's beam search, on lists, as the conventions have it."""
    k = options.get("beam_size", 5)
    name, penalty = options.get("normalization", "length"), options.get("length_penalty", 0.75)
    n_best, stop = options.get("n_best", 1), options.get("stop", "k")
    live: list[tuple[np.float32, Path]] = [(np.float32(0), ())]
    done: list[Found] = []
    for t in range(1, T + 1):
        candidates = []
        for total, path in live:
            gains = model.log_probs(start, path)
            following = [v for v in range(len(gains)) if allowed(path, v, row, options)]
            candidates += [(total + gains[v], (*path, v)) for v in following]
        candidates.sort(key=lambda one: -one[0])
        ended = [one for one in candidates[:k] if one[1][-1] == EOS]
        done += [(True, total / divisor(name, t, penalty), p, total) for total, p in ended]
        live = [one for one in candidates[: 2 * k] if one[1][-1] != EOS][:k]
        if stop == "k" or k == 1:
            enough = len(done) >= k
        else:
            best = sorted(-s for _, s, *_ in done)[:n_best]
            ways = [divisor(name, n, penalty) for n in range(t + 1, T + 1)]
            hope = max((live[0][0] / way for way in ways), default=-math.inf) if live else -math.inf
            enough = t < T and len(best) == n_best and -best[-1] >= hope
        if enough or not live:
            live = []
            break
    done.sort(key=lambda one: -one[1])
    rest = [(False, total / divisor(name, T, penalty), path, total) for total, path in live]
    return (done + rest)[:n_best]


def listed(found: Hypotheses, row: int) -> list[Found]:
    """What stands in a row of a result, places that nothing reached left out."""
    result = []
    for n in range(found.tokens.size(1)):
        length = int(found.lengths[row, n])
        path = tuple(found.tokens[row, n].tolist())
        gains = found.token_log_probs[row, n]
        assert set(path[length:]) <= {PAD} and not gains[length:].any()
        ends = (bool(found.finished[row, n]), found.scores[row, n].numpy())
        if not length:
            assert ends == (False, -math.inf) and found.log_probs[row, n] == -math.inf
            continue
        assert ends[0] == (path[length - 1] == EOS)
        result.append((*ends, path[:length], found.log_probs[row, n].numpy()))
    return result


def same(found: list[Found], expected: list[Found]) -> None:
    assert [(f, p) for f, _, p, _ in found] == [(f, p) for f, _, p, _ in expected]
    # Bit for bit: sums in float32, in order, and one division.
    assert [(float(s), float(t)) for _, s, _, t in found] == [
        (float(s), float(t)) for _, s, _, t in expected
    ]


STARTS = torch.tensor([3, 77, 500, 3, 901])
PREFIX = torch.tensor([[4, 2, PAD], [PAD, PAD, 3], [5, EOS, PAD], [PAD, 2, PAD], [6, 6, 6]])
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


class Tree:
    """Given conditional probabilities of what follows each path; elsewhere the tokens are even."""

    def __init__(self, probabilities: dict[Path, list[float]]) -> None:
        self.probabilities, self.size = probabilities, len(next(iter(probabilities.values())))

    def step(self, tokens: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        state = torch.cat((state, tokens[:, None]), 1)
        even = [1 / self.size] * self.size
        rows = [self.probabilities.get(tuple(path[1:]), even) for path in state.tolist()]
        return torch.tensor(rows).log(), state

    def reorder(self, state: Tensor, index: Tensor) -> Tensor:
        return state[index]


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


def test_results_do_not_depend_on_the_batch() -> None:
    model = Chaos(40, 2.0)
    options = dict(**BASE, max_length=12, beam_size=4, n_best=4)
    whole = beam_search(model, STARTS, **options)
    for rows in ([0], [4, 1], [2, 2, 2, 0, 1, 3, 4]):
        part = beam_search(model, STARTS[rows], **options)
        for one, other in zip(part[:6], whole[:6], strict=True):
            assert torch.equal(one, other[rows])


@pytest.fixture
def in_float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


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
    gains = logits.float().log_softmax(-1).gather(2, best.clamp(max=11).unsqueeze(2)).squeeze(2)
    gains = gains.masked_fill(torch.arange(7) >= found.lengths[:, :1], 0)
    assert_within_budget(found.token_log_probs[:, 0], gains.double(), gains)
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
    assert bool(found.finished.all()) and len(steps) < 20 and set(steps) == {15}


@pytest.mark.parametrize("size, k", [(1, 1), (5, 5), (40, 2), (64, 1), (1000, 7), (1024, 10)])
def test_top_is_a_stable_sort(size: int, k: int) -> None:
    for values in (
        torch.randn(9, size),
        torch.randint(3, (9, size)).float(),
        torch.zeros(9, size).masked_fill(torch.rand(9, size) < 0.5, -torch.inf),
        torch.full((9, size), -torch.inf),
        torch.tensor([0.0, -0.0]).repeat(9, size)[:, :size],
        -torch.rand(9, size) * 1e-40,
    ):
        expected = values.sort(dim=1, descending=True, stable=True)
        found = top(values, k)
        assert torch.equal(found.indices, expected.indices[:, :k])
        assert torch.equal(found.values, expected.values[:, :k])
    assert bool((top(torch.full((2, size), math.nan), k).indices < size).all())


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
