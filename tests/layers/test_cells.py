# SPDX-License-Identifier: MIT
"""Cells: torch.nn's steps, gradients, options and errors."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from twins import CELLS, LAYERS, assert_same, assert_same_training, outcome, state, tensors, twins

import fused_rnn


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", CELLS)
def test_as_in_torch(kind: str, bias: bool) -> None:
    ours, theirs = twins(kind, 3, 5, bias)
    x = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    hx = state(kind, 2, 5)
    for h in tensors(hx):
        h.requires_grad_()
    for given in (x, x.detach()[0].requires_grad_()):
        assert_same_training(ours, theirs, given)
        with torch.no_grad():
            assert_same(ours(given), theirs(given))
    assert_same_training(ours, theirs, x, hx)
    row = [h.detach()[0].requires_grad_() for h in tensors(hx)]
    assert_same_training(ours, theirs, x.detach()[0], row if kind == "LSTMCell" else row[0])
    if kind == "LSTMCell":
        assert_same(ours(x, list(hx)), theirs(x, list(hx)))


def test_relu() -> None:
    ours, theirs = twins("RNNCell", 3, 5, nonlinearity="relu")
    x = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    assert_same_training(ours, theirs, x, state("RNNCell", 2, 5).requires_grad_())


@pytest.mark.parametrize("kind", CELLS)
def test_views_and_empty_sizes(kind: str) -> None:
    ours, theirs = twins(kind, 3, 5)
    x = torch.randn(3, 8, dtype=torch.float64).t()[::2]
    hx = [h.expand(4, 5) for h in tensors(state(kind, 1, 5))]
    given: Any = hx if kind == "LSTMCell" else hx[0]
    assert_same(ours(x, given), theirs(x, given))
    assert_same_training(ours, theirs, x[:0].clone().requires_grad_())
    for sizes in ((3, 0), (0, 5)):
        small, twin = twins(kind, *sizes)
        assert_same(small(x[:, : sizes[0]]), twin(x[:, : sizes[0]]))


@pytest.mark.parametrize("kind", CELLS)
def test_a_loop_is_a_layer(kind: str) -> None:
    cell, _ = twins(kind, 3, 5)
    layer = LAYERS[kind.removesuffix("Cell")][0](3, 5, dtype=torch.float64)
    layer.load_state_dict({f"{name}_l0": p for name, p in cell.state_dict().items()})
    x = torch.randn(4, 2, 3, dtype=torch.float64)
    hx, steps = None, []
    for row in x:
        hx = cell(row, hx)
        steps.append(tensors(hx)[0])
    y, states = layer(x)
    assert_same(torch.stack(steps), y)
    assert_same([h.unsqueeze(0) for h in tensors(hx)], tensors(states))


def test_textbook_gru() -> None:
    cell = fused_rnn.FusedGRUCell(3, 5, reset_after=False, dtype=torch.float64)
    layer = fused_rnn.FusedGRU(3, 5, reset_after=False, dtype=torch.float64)
    layer.load_state_dict({f"{name}_l0": p for name, p in cell.state_dict().items()})
    x, h = torch.randn(2, 3, dtype=torch.float64), torch.randn(2, 5, dtype=torch.float64)
    assert_same(cell(x, h), layer(x[None], h[None])[1][0])
    after = fused_rnn.FusedGRUCell(3, 5, dtype=torch.float64)
    after.load_state_dict(cell.state_dict())
    assert not torch.allclose(cell(x, h), after(x, h))


@pytest.mark.parametrize("kind", CELLS)
@pytest.mark.parametrize("name", ["bias_ih", "bias_hh"])
def test_one_bias_of_two(kind: str, name: str) -> None:
    ours, theirs = twins(kind, 3, 5)
    setattr(ours, name, None)
    setattr(theirs, name, None)
    x = torch.randn(2, 3, dtype=torch.float64)
    assert_same(ours(x), theirs(x))


@pytest.mark.parametrize("kind", CELLS)
@pytest.mark.parametrize("name", ["weight_ih", "weight_hh"])
def test_an_absent_weight_is_named(kind: str, name: str) -> None:
    ours, theirs = twins(kind, 3, 5, dtype=torch.float32)
    for module in (ours, theirs):
        setattr(module, name, None)
    with pytest.raises(TypeError, match="NoneType"):
        theirs(X)
    with pytest.raises(TypeError, match=f"^{name}: expected a tensor, got None$"):
        ours(X)


X = torch.randn(2, 3)


def pair(kind: str, *shape: int) -> Any:
    """Zeros as hx, or two of them."""
    h = torch.zeros(*shape)
    return (h, h) if kind == "LSTMCell" else h


SAME: dict[str, Callable[[str, nn.Module], Any]] = {
    "3-D": lambda kind, m: m(X[None]),
    "0-D": lambda kind, m: m(X[0, 0]),
    "hx 3-D": lambda kind, m: m(X, pair(kind, 1, 2, 5)),
    "hx 0-D": lambda kind, m: m(X, pair(kind)),
    "features": lambda kind, m: m(torch.randn(2, 4)),
    "features, unbatched": lambda kind, m: m(torch.randn(4)),
    "hx size": lambda kind, m: m(X, pair(kind, 2, 6)),
    "hx size 1": lambda kind, m: m(X, pair(kind, 2, 1)),
    "hx rows": lambda kind, m: m(X, pair(kind, 3, 5)),
    "hx one row": lambda kind, m: m(X, pair(kind, 1, 5)),
    "hx 1-D": lambda kind, m: m(X, pair(kind, 5)),
    "features before dtype": lambda kind, m: m(torch.randn(2, 4).double()),
    "hx size before dtype": lambda kind, m: m(X.double(), pair(kind, 2, 6)),
    "hx rows before dtype": lambda kind, m: m(X.double(), pair(kind, 3, 5)),
    "hx size before devices": lambda kind, m: m(X.to("meta"), pair(kind, 2, 6)),
    "not a tensor": lambda kind, m: m([1, 2]),
}


@pytest.mark.parametrize("fault", SAME)
@pytest.mark.parametrize("kind", CELLS)
def test_errors_as_in_torch(kind: str, fault: str) -> None:
    ours, theirs = twins(kind, 3, 5, dtype=torch.float32)
    found = outcome(lambda: SAME[fault](kind, ours))
    assert found is not None
    assert found == outcome(lambda: SAME[fault](kind, theirs))


@pytest.mark.parametrize("kind", CELLS)
def test_errors_of_one_type(kind: str) -> None:
    ours, _ = twins(kind, 3, 5, dtype=torch.float32)
    other = pair(kind, 2, 5)
    double = (other[0].double(),) * 2 if kind == "LSTMCell" else other.double()
    for call in (lambda: ours(X.double()), lambda: ours(X, double), lambda: ours(X.long())):
        with pytest.raises(RuntimeError, match="must have the same dtype"):
            call()
    with pytest.raises(RuntimeError, match="not at the same device"):
        ours(X.to("meta"))
    for shape in ((2, 5), (1, 5), (3, 5), (5, 5)):
        with pytest.raises(RuntimeError, match="hidden0 has inconsistent hidden_size"):
            ours(X[0], pair(kind, *shape))
    with pytest.raises(RuntimeError, match="hidden0 has inconsistent hidden_size"):
        ours(X, pair(kind, 2))


def test_second_state_of_the_lstm() -> None:
    ours, theirs = twins("LSTMCell", 3, 5, dtype=torch.float32)
    h = torch.zeros(2, 5)
    for hx in ((h, h[:1]), (h, h[:, :4]), (h, h[None]), (h, h, h)):
        found = outcome(lambda hx=hx: ours(X, hx))
        assert found is not None
        assert found == outcome(lambda hx=hx: theirs(X, hx))
    with pytest.raises(TypeError, match="hx"):
        ours(X, torch.zeros(2, 2, 5))


@pytest.mark.parametrize("kind", CELLS)
def test_weights_of_another_size(kind: str) -> None:
    """The weights say the size, but zeros for a state have that of the attribute."""
    modules = twins(kind, 3, 5)
    smaller, x = CELLS[kind][1](3, 4, dtype=torch.float64), X.double()
    for module in modules:
        for name, p in smaller.named_parameters():
            setattr(module, name, p)
    found, expected = (outcome(lambda m=m: m(x)) for m in modules)
    assert found is not None and found == expected
    hx = state(kind, 2, 4)
    assert_same(*(module(x, hx) for module in modules))


def test_unknown_nonlinearity_is_found_at_the_first_step() -> None:
    for cls in CELLS["RNNCell"]:
        cell = cls(3, 5, nonlinearity="sigmoid")
        with pytest.raises(RuntimeError, match="Unknown nonlinearity: sigmoid"):
            cell(X)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("kind", CELLS)
def test_dtypes(kind: str, dtype: torch.dtype) -> None:
    ours, _ = twins(kind, 3, 5, dtype=dtype)
    x = torch.randn(2, 3, dtype=dtype, requires_grad=True)
    results = tensors(ours(x))
    assert all(t.dtype == dtype for t in results)
    sum(t.float().sum() for t in results).backward()
    assert all(p.grad.dtype == dtype for p in (x, *ours.parameters()))


@pytest.mark.parametrize("kind", CELLS)
def test_deepcopy_between_steps(kind: str) -> None:
    ours, _ = twins(kind, 3, 5)
    x = torch.randn(2, 3, dtype=torch.float64)
    assert_same(copy.deepcopy(ours)(x), ours(x))
