# SPDX-License-Identifier: MIT
"""The book's systems: fused and written out compute the same, and runs are not repeated."""

import json
import os
from pathlib import Path

import pytest
import torch

from bench import applications, book, bounds, search, search_peers, translation
from bench.book_models import bidirectional_language_model, language_model, translator, twin
from fused_rnn.testing import assert_within_budget


@pytest.mark.parametrize(
    "cell, layers, written_out",
    [
        ("rnn_tanh", 1, True),
        ("gru_reset_before", 1, True),
        ("lstm", 1, True),
        ("gru", 1, False),
        ("lstm", 2, False),
    ],
)
def test_a_twin_computes_the_same(cell: str, layers: int, written_out: bool) -> None:
    torch.set_default_dtype(torch.float64)
    try:
        model = language_model(9, cell, 6, layers, written_out=written_out)
    finally:
        torch.set_default_dtype(torch.float32)
    if written_out:
        assert 0.005 < model.rnn.weight_hh_l0.std() < 0.02 and not model.rnn.bias_ih_l0.any()
    other = twin(model, written_out=written_out)
    tokens = torch.randint(9, (7, 3))
    outcomes = []
    for one in (model, other):
        head = one(tokens[:3])
        tail = one(tokens[3:], head.state)
        loss = tail.logits.logsumexp(-1).sum()
        loss.backward()
        outcomes.append([tail.logits, *(p.grad for p in one.parameters() if p.requires_grad)])
    assert len(outcomes[0]) == len(outcomes[1])
    shapes = [sorted(part.shape for part in own) for own in outcomes]
    assert shapes[0] == shapes[1]
    assert_within_budget(outcomes[0][0], outcomes[1][0])


@pytest.mark.parametrize("attention", ["none", "additive"])
def test_the_translator_and_its_twin(attention: str) -> None:
    model = translator(9, 8, attention).double().eval()
    other = twin(model)
    source, target = torch.randint(9, (3, 5)), torch.randint(8, (3, 4))
    lengths = torch.tensor([5, 2, 1])
    expected = model(source, target, lengths).logits
    assert_within_budget(other(source, target, lengths).logits, expected)
    bound = (6 / (32 + 96)) ** 0.5
    assert 0.9 * bound < model.encoder.rnn.weight_hh_l0.abs().max() <= bound


def test_bidirectional_misuse_sees_what_comes() -> None:
    model = bidirectional_language_model(9, 6)
    tokens = torch.randint(9, (5, 1))
    later = tokens.clone()
    later[4] = (later[4] + 1) % 9
    assert not torch.equal(model(tokens).logits[0], model(later).logits[0])


def test_runs_are_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if not os.environ.get("FUSED_RNN_TEST_DATA"):
        pytest.skip("FUSED_RNN_TEST_DATA does not name a folder with the corpora")
    out = tmp_path / "book.jsonl"
    arguments = ["--filter=^(gru|translation)$", "--seeds=1", "--epochs=1", f"--out={out}"]
    assert book.main(arguments) == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["system"] for row in rows] == ["gru", "translation"]
    for row in rows:
        assert row["fused"]["figure"] == pytest.approx(row["torch.nn"]["figure"], rel=0.05)
        assert row["fused"]["tokens_per_second"]["p50"] > 0 and row["commit"]
    assert set(rows[1]["fused"]["beam 2"]["sentences"]) == set(book._SENTENCES)
    report = applications.full("book", rows)
    assert "| gru | perplexity | 1 | 1 |" in report and "| translation | beam 2 |" in report
    shown = capsys.readouterr().out
    before = out.read_text()
    assert book.main(arguments) == 0
    assert out.read_text() == before and capsys.readouterr().out == shown


def test_the_larger_run_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if not os.environ.get("FUSED_RNN_TEST_DATA"):
        pytest.skip("FUSED_RNN_TEST_DATA does not name a folder with the corpora")
    out = tmp_path / "translation.jsonl"
    arguments = [f"--work={tmp_path / 'work'}", f"--out={out}", "--steps=4", "--held-out=20"]
    arguments += ["--pairs=600", "--hidden-size=8", "--compare-steps=2", "--threads=1"]
    for _ in range(2):
        assert translation.main(arguments) == 0
    assert "Going on after step 4" in capsys.readouterr().out
    first, second = (json.loads(line) for line in out.read_text().splitlines())
    assert first["sentences"] == 20 and first["references"] >= 20
    for name in ("comparison", "validations", "held_out_perplexity", "train_seconds"):
        assert first[name] == second[name]
    for beam in ("beam 1", "beam 5"):
        assert first[beam]["bleu"] == second[beam]["bleu"]
    report = applications.full("translation", [first, second])
    assert "20 English sentences held out" in report
    assert f"| beam 5 | {second['beam 5']['bleu']:.2f} |" in report


def test_search_is_timed_where_it_finds_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rates = bounds.Rates(100e9, 200e9, {"L1": 1e9}, {"L1": 1 << 15})
    monkeypatch.setattr(bounds, "measure", lambda threads: rates)

    def wrong(setting: search_peers.Setting) -> search_peers.Search:
        return lambda: torch.zeros(setting.batch, setting.steps, dtype=torch.int64)

    def absent(setting: search_peers.Setting) -> search_peers.Search:
        raise search_peers.Unavailable("it is not there")

    monkeypatch.setattr(search, "PEERS", {"wrong": wrong, "absent": absent})
    out = tmp_path / "search.jsonl"
    sizes = ["--batch=2", "--beam=3", "--vocab=50", "--hidden=8", "--steps=5", "--seconds=0.05"]
    assert search.main([*sizes, f"--out={out}"]) == 0
    beam, greedy = (json.loads(line) for line in out.read_text().splitlines())
    assert (beam["search"], greedy["search"]) == ("beam 3", "greedy")
    # Two layers of three gates, each with 8 x 8 twice, and the output; 6 rows, 5 steps.
    assert beam["flop"] == 2 * 6 * 5 * (2 * 2 * 3 * 64 + 8 * 50) == 3 * greedy["flop"]
    smaller = {"fused_rnn, bfloat16 model", "fused_rnn, int8 model"}
    for row in (beam, greedy):
        assert set(row["times"]) == {"fused_rnn", "fused_rnn over torch.nn", *smaller}
        assert row["reasons"] == {"wrong": "finds other sequences", "absent": "it is not there"}
    report = applications.full("search", [greedy, beam, greedy])
    assert report.count("greedy, batch 2") == report.count("beam 3, batch 2") == 1
    assert report.count("- absent: it is not there") == 2
    monkeypatch.setattr(search, "agrees", lambda *given: False)
    assert search.main([*sizes, f"--out={out}"]) == 0
    last = json.loads(out.read_text().splitlines()[-1])
    assert not smaller & set(last["times"])
    assert all("log-prob" in last["reasons"][name] for name in smaller)
    assert "none: it is not there" in capsys.readouterr().out
