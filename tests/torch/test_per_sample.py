# SPDX-License-Identifier: MIT
"""Per-sample gradients by PyTorch's expanded weights: equal to one backward pass for each row."""

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils._per_sample_grad import call_for_per_sample_grads
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from twins import ALL, CELLS, DOUBLE, LAYERS, assert_same, state, tensors

import fused_rnn

B = 3


class Case:
    """A module, a batch for it, and a loss of all its outputs as a sum over rows."""

    def __init__(self, kind: str, states: bool = True, **options: Any) -> None:
        self.kind = kind
        self.module = ALL[kind][0](2, 5, dtype=DOUBLE, **options)
        self.batch_first = getattr(self.module, "batch_first", kind in CELLS)
        shape = (B, 2) if kind in CELLS else (B, 4, 2) if self.batch_first else (4, B, 2)
        self.x = torch.randn(shape, dtype=DOUBLE)
        self.hx = self._states(options) if states else None

    def _states(self, options: dict[str, Any]) -> Any:
        if self.kind in CELLS:
            return state(self.kind, B, 5)
        rows = options.get("num_layers", 1) * (2 if options.get("bidirectional") else 1)
        if "proj_size" not in options:
            return state(self.kind, rows, B, 5)
        h = torch.randn(rows, B, options["proj_size"], dtype=DOUBLE)
        return h, torch.randn(rows, B, 5, dtype=DOUBLE)

    def row(self, b: int) -> tuple[Any, ...]:
        """The arguments of one row, a batch of one."""
        axis = 0 if self.batch_first else 1
        x = self.x.narrow(axis, b, 1)
        if self.hx is None:
            return (x,)
        axis = 0 if self.kind in CELLS else 1
        cut = [h.narrow(axis, b, 1) for h in tensors(self.hx)]
        return x, tuple(cut) if isinstance(self.hx, tuple) else cut[0]


def loss(found: Any) -> Tensor:
    return sum(t.sin().sum() for t in tensors(found))


def one_by_one(module: nn.Module, calls: list[Callable[[], Any]]) -> list[Tensor]:
    """The gradients of all weights, one call at a time."""
    rows = [
        torch.autograd.grad(loss(call()), list(module.parameters()), materialize_grads=True)
        for call in calls
    ]
    return [torch.stack(grads) for grads in zip(*rows, strict=True)]


OPTIONS: list[dict[str, Any]] = [
    {},
    {"num_layers": 2, "bidirectional": True},
    {"batch_first": True, "bias": False},
]
CASES = [(kind, options) for kind in LAYERS for options in OPTIONS]
CASES += [(kind, options) for kind in CELLS for options in ({}, {"bias": False})]
CASES += [("GRU", {"reset_after": False}), ("GRUCell", {"reset_after": False})]
CASES += [("RNN", {"nonlinearity": "relu"}), ("LSTM", {"proj_size": 3, "num_layers": 2})]


@pytest.mark.parametrize("backend", ["native", "reference"])
@pytest.mark.parametrize("states", [False, True], ids=["zeros", "hx"])
@pytest.mark.parametrize(("kind", "options"), CASES, ids=str)
def test_expanded_weights(kind: str, options: dict[str, Any], states: bool, backend: str) -> None:
    case = Case(kind, states, backend=backend, **options)
    module = case.module
    args = (case.x.requires_grad_(), *([case.hx] if states else []))
    expected = one_by_one(module, [lambda b=b: module(*case.row(b)) for b in range(B)])
    (dx,) = torch.autograd.grad(loss(module(*args)), case.x)
    found = call_for_per_sample_grads(module, batch_size=B, batch_first=case.batch_first)(*args)
    assert_same(tensors(found), tensors(module(*args)))
    loss(found).backward()
    for weight, grads in zip(module.parameters(), expected, strict=True):
        assert weight.grad is None
        assert_same(weight.grad_sample, grads)
    assert_same(case.x.grad, dx)


def test_the_mean_of_losses_and_a_second_call() -> None:
    case = Case("GRU")
    module, calls = case.module, [lambda b=b: case.module(*case.row(b)) for b in range(B)]
    expected = one_by_one(module, calls)
    grads = call_for_per_sample_grads(module, batch_size=B, loss_reduction="mean")
    for _ in range(2):
        (loss(grads(case.x, case.hx)) / B).backward()
    for weight, rows in zip(module.parameters(), expected, strict=True):
        assert_same(weight.grad_sample, 2 * rows)


def test_frozen_weights() -> None:
    case = Case("LSTM")
    module = case.module
    module.weight_hh_l0.requires_grad_(False)
    call_for_per_sample_grads(module, batch_size=B)(case.x)[0].sum().backward()
    assert not hasattr(module.weight_hh_l0, "grad_sample")
    assert module.weight_ih_l0.grad_sample.shape == (B, 20, 2)


@pytest.mark.parametrize("kind", LAYERS)
def test_ragged_and_reset(kind: str) -> None:
    case = Case(kind, num_layers=2)
    lengths, resets = torch.tensor([2, 4, 0]), torch.rand(4, B) < 0.4
    case.x[2:, 0] = torch.nan
    calls = [
        functools.partial(
            case.module, *case.row(b), lengths=lengths[b : b + 1], resets=resets[:, b : b + 1]
        )
        for b in range(B)
    ]
    expected = one_by_one(case.module, calls)
    call = call_for_per_sample_grads(case.module, batch_size=B)
    loss(call(case.x, case.hx, lengths=lengths, resets=resets)).backward()
    for weight, rows in zip(case.module.parameters(), expected, strict=True):
        assert_same(weight.grad_sample, rows)


@pytest.mark.parametrize("enforce_sorted", [True, False])
@pytest.mark.parametrize("kind", LAYERS)
def test_packed(kind: str, enforce_sorted: bool) -> None:
    """Rows stand where they stood before they were sorted."""
    case = Case(kind, bidirectional=True)
    lengths = [4, 3, 1] if enforce_sorted else [1, 4, 3]
    packed = pack_padded_sequence(case.x, lengths, enforce_sorted=enforce_sorted)

    def outputs(b: int) -> Any:
        x, hx = case.row(b)
        return case.module(x[: lengths[b]], hx)

    expected = one_by_one(case.module, [lambda b=b: outputs(b) for b in range(B)])
    found, hx = call_for_per_sample_grads(case.module, batch_size=B)(packed, case.hx)
    y, final = case.module(packed, case.hx)
    assert_same(pad_packed_sequence(found), pad_packed_sequence(y))
    assert_same(hx, final)
    loss((found.data, hx)).backward()
    for weight, rows in zip(case.module.parameters(), expected, strict=True):
        assert_same(weight.grad_sample, rows)


def test_dropout_between_layers() -> None:
    module = fused_rnn.FusedGRU(2, 5, num_layers=2, dropout=0.5, dtype=DOUBLE)
    x = torch.randn(4, 1, 2, dtype=DOUBLE)
    y, _ = call_for_per_sample_grads(module, batch_size=B)(x.expand(4, B, 2))
    assert not torch.equal(y[:, 0], y[:, 1])
    # All of it dropped leaves nothing to chance.
    module.dropout = 1.0
    (expected,) = one_by_one(module, [lambda: module(x)] * B)[:1]
    loss(call_for_per_sample_grads(module, batch_size=B)(x.expand(4, B, 2))).backward()
    assert_same(module.weight_ih_l0.grad_sample, expected)


def test_errors() -> None:
    module = fused_rnn.FusedGRU(2, 5)
    message = "batch size matching input but got input batch size of 2 .* of batch size 3"
    for x in (torch.randn(4, 2, 2), torch.randn(2, 2).unsqueeze(1).expand(2, 2, 2)):
        with pytest.raises(RuntimeError, match=message):
            call_for_per_sample_grads(module, batch_size=3)(x)
    with pytest.raises(RuntimeError, match=r"Expected hidden size \(1, 3, 5\)"):
        call_for_per_sample_grads(module, batch_size=3)(torch.randn(4, 3, 2), torch.randn(1, 2, 5))


def test_without_gradients() -> None:
    case = Case("LSTM")
    with torch.no_grad():
        found = call_for_per_sample_grads(case.module, batch_size=B)(case.x, case.hx)
        assert_same(found, case.module(case.x, case.hx))


@pytest.mark.parametrize("kind", ALL)
def test_autocast(kind: str) -> None:
    module = ALL[kind][0](2, 5)
    x = torch.randn((B, 2) if kind in CELLS else (4, B, 2))
    with torch.autocast("cpu", torch.bfloat16):
        found = tensors(call_for_per_sample_grads(module, batch_size=B)(x))
        expected = tensors(module(x))
    assert [t.dtype for t in found] == [t.dtype for t in expected]
    sum(t.float().sum() for t in found).backward()
    assert all(w.grad_sample.shape == (B, *w.shape) for w in module.parameters())
