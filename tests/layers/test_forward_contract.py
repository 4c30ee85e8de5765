# SPDX-License-Identifier: MIT
"""Forward as torch.nn does it: forms of input and state, options, gradients; and our keywords."""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor
from twins import LAYERS, assert_same, assert_same_training, state, tensors, twins

import fused_rnn

OPTIONS: list[dict[str, Any]] = [
    {},
    dict(num_layers=2, bidirectional=True),
    dict(num_layers=2, batch_first=True, bias=False),
    dict(bidirectional=True, batch_first=True),
]
VARIANTS = [
    *((kind, options) for kind in LAYERS for options in OPTIONS),
    ("RNN", dict(nonlinearity="relu", num_layers=2)),
    ("LSTM", dict(proj_size=2)),
    ("LSTM", dict(proj_size=2, num_layers=2, bidirectional=True, batch_first=True, bias=False)),
]


def hx_for(kind: str, options: dict[str, Any], *batch: int) -> Any:
    rows = options.get("num_layers", 1) * (2 if options.get("bidirectional") else 1)
    if kind != "LSTM":
        return state(kind, rows, *batch, 5)
    h = torch.randn(rows, *batch, options.get("proj_size") or 5, dtype=torch.float64)
    return h, torch.randn(rows, *batch, 5, dtype=torch.float64)


def leaf(value: Any) -> Any:
    """The same nest of tensors, each asking for its gradient."""
    if isinstance(value, Tensor):
        return value.requires_grad_()
    return type(value)(leaf(part) for part in value)


@pytest.mark.parametrize(("kind", "options"), VARIANTS, ids=str)
class TestForms:
    def test_batched(self, kind: str, options: dict[str, Any]) -> None:
        ours, theirs = twins(kind, 3, 5, **options)
        x = torch.randn(4, 2, 3, dtype=torch.float64, requires_grad=True)
        batch = 4 if ours.batch_first else 2
        assert_same_training(ours, theirs, x)
        assert_same_training(ours, theirs, x, leaf(hx_for(kind, options, batch)))
        with torch.no_grad():
            assert_same(ours(x), theirs(x))
            assert_same(ours(x, hx=None), theirs(x, hx=None))

    def test_unbatched(self, kind: str, options: dict[str, Any]) -> None:
        ours, theirs = twins(kind, 3, 5, **options)
        x = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
        assert_same_training(ours, theirs, x)
        assert_same_training(ours, theirs, x, leaf(hx_for(kind, options)))

    def test_views(self, kind: str, options: dict[str, Any]) -> None:
        ours, theirs = twins(kind, 3, 5, **options)
        base = torch.randn(3, 2, 8, dtype=torch.float64)
        strided = base.permute(2, 1, 0)[::2]
        assert not strided.is_contiguous()
        assert_same(ours(strided), theirs(strided))
        expanded = base[:1].permute(2, 1, 0).expand(8, 2, 3)
        assert_same(ours(expanded), theirs(expanded))
        rows = hx_for(kind, options, 1)
        batch = 8 if ours.batch_first else 2
        wide: Any = [h.expand(-1, batch, -1) for h in tensors(rows)]
        wide = wide if kind == "LSTM" else wide[0]
        longer = strided.repeat(2, 1, 1)
        assert_same(ours(longer, wide), theirs(longer, wide))

    def test_empty_batch(self, kind: str, options: dict[str, Any]) -> None:
        ours, theirs = twins(kind, 3, 5, **options)
        x = torch.randn((0, 4, 3) if ours.batch_first else (4, 0, 3), dtype=torch.float64)
        assert_same_training(ours, theirs, x.requires_grad_())
        assert all((p.grad == 0).all() for p in ours.parameters())

    def test_storage_of_results(self, kind: str, options: dict[str, Any]) -> None:
        ours, _ = twins(kind, 3, 5, **options)
        for steps, backend in itertools.product((1, 4), ("auto", "torch", "reference")):
            x = torch.randn(steps, steps, 3, dtype=torch.float64)
            with fused_rnn.use_backend(backend):
                y, *rest = tensors(ours(x))
            places = [t.untyped_storage().data_ptr() for t in (y, *rest)]
            assert len(set(places)) == len(places)
            if not ours.batch_first:
                y.view(steps, steps, 2 if ours.bidirectional else 1, -1)

    def test_lengths_are_rows_alone(self, kind: str, options: dict[str, Any]) -> None:
        ours, theirs = twins(kind, 3, 5, **options)
        x = torch.randn(4, 4, 3, dtype=torch.float64)
        lengths = [2, 0, 4, 1]
        hx = hx_for(kind, options, 4)
        y, states = ours(x, hx, lengths=lengths)
        y, x = (y, x) if ours.batch_first else (y.transpose(0, 1), x.transpose(0, 1))
        for b, length in enumerate(lengths):
            start = [h[:, b] for h in tensors(hx)]
            assert not y[b, length:].any()
            if length == 0:
                assert_same([h[:, b] for h in tensors(states)], start)
                continue
            alone, last = theirs(x[b, :length], tuple(start) if kind == "LSTM" else start[0])
            assert_same(y[b, :length], alone)
            assert_same([h[:, b] for h in tensors(states)], tensors(last))


@pytest.mark.parametrize(
    ("kind", "options"),
    [(kind, dict(bidirectional=both)) for kind in LAYERS for both in (False, True)],
    ids=str,
)
def test_resets_are_pieces_alone(kind: str, options: dict[str, Any]) -> None:
    # One layer: with more, it is every layer for itself that runs its pieces separately.
    ours, theirs = twins(kind, 3, 5, **options)
    x, hx = torch.randn(6, 3, dtype=torch.float64), hx_for(kind, options)
    marks = torch.tensor([0, 0, 1, 0, 0, 0], dtype=torch.bool)
    y, states = ours(x, hx, resets=marks)
    zeros = [torch.zeros_like(h) for h in tensors(hx)]
    given = []
    for which in (0, 1):
        # The first piece is where the forward direction starts, the last the reverse one.
        pair = [z.clone() for z in zeros]
        for target, source in zip(pair, tensors(hx), strict=True):
            if which < target.shape[0]:
                target[which] = source[which]
        given.append(tuple(pair) if kind == "LSTM" else pair[0])
    first, at_cut = theirs(x[:2], given[0])
    second, at_end = theirs(x[2:], given[1] if ours.bidirectional else _zeros(hx))
    assert_same(y, torch.cat([first, second]))
    for h, a, b in zip(tensors(states), tensors(at_cut), tensors(at_end), strict=True):
        assert_same(h[0], b[0])
        if ours.bidirectional:
            assert_same(h[1], a[1])


def _zeros(hx: Any) -> Any:
    return (
        torch.zeros_like(hx) if isinstance(hx, Tensor) else tuple(torch.zeros_like(h) for h in hx)
    )


@pytest.mark.parametrize("kind", LAYERS)
def test_layouts_of_lengths_and_resets(kind: str) -> None:
    ours, _ = twins(kind, 3, 5)
    first, _ = twins(kind, 3, 5, batch_first=True)
    first.load_state_dict(ours.state_dict())
    x = torch.randn(4, 2, 3, dtype=torch.float64)
    marks = torch.rand(4, 2) < 0.4
    expected = ours(x, lengths=[4, 2], resets=marks)
    for dtype in (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8):
        assert_same(ours(x, lengths=torch.tensor([4, 2], dtype=dtype), resets=marks), expected)
    found = first(x.transpose(0, 1), lengths=(4, 2), resets=marks.t())
    assert_same((found[0].transpose(0, 1), found[1]), expected)
    row = ours(x[:, 1], lengths=[2], resets=marks[:, 1])
    assert_same(row[0], expected[0][:, 1])
    assert_same(ours(x[:, 1], lengths=torch.tensor(2), resets=marks[:, 1]), row)
    assert_same(ours(x[:, :0], lengths=[]), ours(x[:, :0]))


@pytest.mark.parametrize("kind", LAYERS)
def test_what_lies_past_a_length_is_not_read(kind: str) -> None:
    ours, _ = twins(kind, 3, 5, bidirectional=True, num_layers=2)
    x = torch.randn(4, 2, 3, dtype=torch.float64)
    expected = ours(x, lengths=[4, 2])
    x[2:, 1] = torch.nan
    x.requires_grad_()
    found = ours(x, lengths=[4, 2])
    assert_same(found, expected)
    sum(t.sum() for t in tensors(found)).backward()
    assert not x.grad.isnan().any() and not x.grad[2:, 1].any()
    assert not any(p.grad.isnan().any() for p in ours.parameters())


@pytest.mark.parametrize("kind", LAYERS)
def test_options_are_read_at_call_time(kind: str) -> None:
    ours, theirs = twins(kind, 3, 5, num_layers=2)
    x = torch.randn(4, 4, 3, dtype=torch.float64)
    for module in (ours, theirs):
        module.batch_first = True
        module.dropout = 1.0
    assert_same(ours(x), theirs(x))
    for module in (ours, theirs):
        module.eval()
    assert_same(ours(x), theirs(x))


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("which", range(8))
def test_any_subset_of_gradients(kind: str, which: int) -> None:
    ours, theirs = twins(kind, 3, 5, bidirectional=True)
    x = torch.randn(4, 2, 3, dtype=torch.float64, requires_grad=bool(which & 1))
    hx = state(kind, 2, 2, 5)
    for h in tensors(hx)[-1:]:
        h.requires_grad_(bool(which & 2))
    for module in (ours, theirs):
        for index, p in enumerate(module.parameters()):
            p.requires_grad_(bool(which & 4) and index % 3 == 0)
    if which == 0:
        assert not any(t.requires_grad for t in tensors(ours(x, hx)))
    else:
        assert_same_training(ours, theirs, x, hx)


@pytest.mark.parametrize("kind", LAYERS)
def test_any_subset_of_results(kind: str) -> None:
    ours, theirs = twins(kind, 3, 5, num_layers=2, bidirectional=True)
    x = torch.randn(4, 2, 3, dtype=torch.float64, requires_grad=True)
    for index in range(3 if kind == "LSTM" else 2):
        found = []
        for module in (ours, theirs):
            result = tensors(module(x))[index]
            # A sum's gradient has stride 0.
            inputs = [x, *module.parameters()]
            found.append(torch.autograd.grad(result.sum(), inputs, allow_unused=True))
        mine, yours = ([torch.zeros(()) if g is None else g for g in grads] for grads in found)
        for m, y in zip(mine, yours, strict=True):
            assert_same(m, y) if m.shape == y.shape else _assert_none_is_zero(m, y)


def _assert_none_is_zero(mine: Tensor, yours: Tensor) -> None:
    assert not mine.any() and not yours.any()


@pytest.mark.parametrize("kind", LAYERS)
def test_graph_is_freed_and_guarded(kind: str) -> None:
    ours, _ = twins(kind, 3, 5)
    x = torch.randn(4, 2, 3, dtype=torch.float64, requires_grad=True)
    y = ours(x)[0]
    y.sum().backward(retain_graph=True)
    first = x.grad.clone()
    x.grad = None
    y.sum().backward()
    assert torch.equal(x.grad, first)
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        y.sum().backward()
    y = ours(x)[0]
    with torch.no_grad():
        ours.weight_hh_l0.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("kind", LAYERS)
def test_dtypes(kind: str, dtype: torch.dtype) -> None:
    ours, _ = twins(kind, 3, 5, num_layers=2, dtype=dtype)
    x = torch.randn(4, 2, 3, dtype=dtype, requires_grad=True)
    results = tensors(ours(x))
    assert all(t.dtype == dtype for t in results)
    sum(t.float().sum() for t in results).backward()
    assert x.grad.dtype == dtype
    assert all(p.grad.dtype == dtype and p.grad.isfinite().all() for p in ours.parameters())
