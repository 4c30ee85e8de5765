# SPDX-License-Identifier: MIT
"""The stateless functions: torch.nn's results from bare weights, and what they refuse."""

from typing import Any

import pytest
import torch
from cases import need
from torch import Tensor, nn

from fused_rnn import functional
from fused_rnn.testing import assert_within_budget

CALLS: dict[str, tuple[Any, type[nn.Module], dict[str, Any], dict[str, Any]]] = {
    "rnn": (functional.rnn, nn.RNN, {}, {}),
    "relu": (functional.rnn, nn.RNN, {"nonlinearity": "relu"}, {"nonlinearity": "relu"}),
    "gru": (functional.gru, nn.GRU, {}, {}),
    "lstm": (functional.lstm, nn.LSTM, {}, {}),
    "projected": (functional.lstm, nn.LSTM, {"proj_size": 3}, {}),
}
SHAPE = {"num_layers": 2, "bidirectional": True}


def flat(tree: object) -> list[Tensor]:
    return torch.utils._pytree.tree_leaves(tree)


@pytest.mark.parametrize("backend", ["native", "torch", "reference"])
@pytest.mark.parametrize("batched", [True, False], ids=["batched", "unbatched"])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "nobias"])
@pytest.mark.parametrize("name", CALLS)
def test_equals_torch_nn(name: str, bias: bool, batched: bool, backend: str) -> None:
    need(backend)
    function, make, module_keywords, keywords = CALLS[name]
    module = make(4, 5, bias=bias, dtype=torch.float64, **SHAPE, **module_keywords)
    batch = (3,) if batched else ()
    x = torch.randn(6, *batch, 4, dtype=torch.float64)
    hx: Any = torch.randn(4, *batch, module_keywords.get("proj_size", 5), dtype=torch.float64)
    if make is nn.LSTM:
        hx = (hx, torch.randn(4, *batch, 5, dtype=torch.float64))
    weights = list(module.parameters())
    for state in (hx, None):
        found = function(x, state, weights, bias=bias, backend=backend, **SHAPE, **keywords)
        for actual, truth in zip(flat(found), flat(module(x, state)), strict=True):
            assert_within_budget(actual.detach(), truth.detach(), backend=backend, case=name)


def test_dropout_draws_what_torch_nn_draws() -> None:
    module = nn.GRU(4, 5, 3, dropout=0.5, dtype=torch.float64)
    x = torch.randn(6, 2, 4, dtype=torch.float64)
    weights = list(module.parameters())
    keywords = {"num_layers": 3, "dropout": 0.5}
    torch.manual_seed(1)
    truth, _ = module(x)
    torch.manual_seed(1)
    found, _ = functional.gru(x, None, weights, training=True, **keywords)
    assert_within_budget(found.detach(), truth.detach())
    plain, _ = functional.gru(x, None, weights, **keywords)
    assert_within_budget(plain.detach(), module.eval()(x)[0].detach())
    all_dropped, last = functional.gru(x, None, weights, training=True, num_layers=3, dropout=1.0)
    zeros, _ = functional.gru(torch.zeros(6, 2, 5).double(), None, weights[8:])
    assert_within_budget(all_dropped.detach(), zeros.detach())
    assert last[0].any()


def test_the_textbook_form_is_asked_for() -> None:
    weights = list(nn.GRU(4, 5).parameters())
    x = torch.randn(6, 2, 4)
    after, _ = functional.gru(x, None, weights)
    before, _ = functional.gru(x, None, weights, reset_after=False)
    assert (after - before).abs().max() > 1e-4


def test_lengths_and_resets_of_one_sequence() -> None:
    weights = list(nn.LSTM(4, 5, dtype=torch.float64).parameters())
    x, marks = torch.randn(6, 4, dtype=torch.float64), torch.tensor([0, 0, 1, 0, 0, 1]).bool()
    for lengths in (4, [4], torch.tensor(4), torch.tensor([4])):
        found = functional.lstm(x, None, weights, lengths=lengths, resets=marks)
        y, _ = functional.lstm(x[2:4], None, weights)
        assert_within_budget(found[0][2:4].detach(), y.detach())
        assert not found[0][4:].any()


@pytest.mark.parametrize(
    ("error", "match", "change"),
    [
        (ValueError, "2D or 3D, got 4D", {"input": torch.randn(1, 2, 3, 4)}),
        (RuntimeError, "larger than 0", {"input": torch.randn(0, 2, 4)}),
        (RuntimeError, "Expected 4, got 3", {"input": torch.randn(6, 2, 3)}),
        (ValueError, "does not match weight dtype", {"input": torch.randn(6, 2, 4).double()}),
        (RuntimeError, "also be 3-D", {"hx": torch.zeros(1, 5)}),
        (RuntimeError, r"Expected hidden size \(1, 2, 5\)", {"hx": torch.zeros(1, 3, 5)}),
        (RuntimeError, "same dtype", {"hx": torch.zeros(1, 2, 5).double()}),
        (ValueError, "expected 8 tensors, got 4", {"num_layers": 2}),
        (ValueError, "expected 2 tensors, got 4", {"bias": False}),
        (ValueError, "begins with the matrices", {"weights": [torch.zeros(3)]}),
        (ValueError, r"weights\[1\]: expected shape \(15, 5\)", {"w_hh": torch.zeros(15, 4)}),
        (ValueError, r"weights\[0\]: expected shape \(12, 4\)", {"w_ih": torch.zeros(14, 4)}),
        (ValueError, r"lengths: expected shape \(2,\)", {"lengths": [1]}),
        (ValueError, "values in 0..6, got 7", {"lengths": [1, 7]}),
        (ValueError, "values in 0..6, got -1", {"lengths": [1, -1]}),
        (ValueError, r"resets: expected shape \(6, 2\)", {"resets": torch.zeros(2, 6).bool()}),
        (ValueError, "torch.bool", {"resets": torch.zeros(6, 2)}),
        (ValueError, "backend", {"backend": "fast"}),
    ],
)
def test_bad_arguments(error: type[Exception], match: str, change: dict[str, Any]) -> None:
    weights = [w.detach() for w in nn.GRU(4, 5).parameters()]
    places = {"w_ih": 0, "w_hh": 1}
    for name in places.keys() & change.keys():
        weights[places[name]] = change[name]
    arguments = {"input": torch.randn(6, 2, 4), "hx": None, "weights": weights}
    arguments |= {name: value for name, value in change.items() if name not in places}
    with pytest.raises(error, match=match):
        functional.gru(**arguments)


@pytest.mark.parametrize("place", range(4))
def test_an_absent_weight_is_named(place: int) -> None:
    weights: list[Any] = [w.detach() for w in nn.GRU(4, 5).parameters()]
    weights[place] = None
    with pytest.raises(TypeError, match=rf"^weights\[{place}\]: expected a tensor, got None$"):
        functional.gru(torch.randn(6, 2, 4), None, weights)


def test_bad_pairs_and_nonlinearities() -> None:
    weights = [w.detach() for w in nn.LSTM(4, 5).parameters()]
    x, state = torch.randn(6, 2, 4), torch.zeros(1, 2, 5)
    with pytest.raises(RuntimeError, match="two hidden states"):
        functional.lstm(x, (state,), weights)
    with pytest.raises(ValueError, match="Unknown nonlinearity 'sine'"):
        functional.rnn(x, None, weights, nonlinearity="sine")
