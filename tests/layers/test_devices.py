# SPDX-License-Identifier: MIT
"""Meta and fake tensors: shapes and types without numbers, forward and backward."""

from collections.abc import Iterator

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.nn.utils.rnn import PackedSequence
from twins import ALL, CELLS, LAYERS, tensors

import fused_rnn
from fused_rnn.ops import PAIRS


def options_for(kind: str) -> dict[str, object]:
    if kind in CELLS:
        return {}
    more = dict(proj_size=2) if kind == "LSTM" else {}
    return dict(num_layers=2, bidirectional=True, dropout=0.5) | more


def shape_for(kind: str) -> tuple[int, ...]:
    return (2, 3) if kind in CELLS else (4, 2, 3)


def alike(found: object, expected: object, device: str) -> None:
    for mine, real in zip(tensors(found), tensors(expected), strict=True):
        assert (mine.shape, mine.dtype) == (real.shape, real.dtype)
        assert mine.device.type == device


@pytest.fixture
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """Layers run on this one."""
    with fused_rnn.use_backend(request.param):
        yield request.param


each_backend = pytest.mark.parametrize("backend", ["auto", "torch", "reference"], indirect=True)


@each_backend
@pytest.mark.parametrize("kind", ALL)
def test_meta(kind: str, backend: str) -> None:
    real = ALL[kind][0](3, 5, **options_for(kind))
    meta = ALL[kind][0](3, 5, **options_for(kind), device="meta")
    x = torch.randn(shape_for(kind))
    found = meta(x.to("meta"))
    alike(found, real(x), "meta")
    sum(t.sum() for t in tensors(found)).backward()
    assert all(p.grad.shape == p.shape for p in meta.parameters())
    with torch.no_grad():
        alike(meta(x.to("meta")), real(x), "meta")


@each_backend
@pytest.mark.parametrize("kind", LAYERS)
def test_meta_ragged(kind: str, backend: str) -> None:
    meta = LAYERS[kind][0](3, 5, bidirectional=True, device="meta")
    x = torch.randn(4, 2, 3, device="meta")
    marks = torch.zeros(4, 2, dtype=torch.bool, device="meta")
    marks = None if backend == "torch" else marks
    for lengths in ([4, 2], torch.tensor([4, 2]), torch.tensor([4, 2]).to("meta")):
        y, _ = meta(x, lengths=lengths, resets=marks)
        assert y.shape == (4, 2, 10)
    packed = PackedSequence(torch.randn(6, 3, device="meta"), torch.tensor([2, 2, 1, 1]))
    y, states = meta(packed)
    assert y.data.shape == (6, 10)
    assert tensors(states)[0].shape == (2, 2, 5)


@each_backend
@pytest.mark.parametrize("kind", ALL)
def test_fake(kind: str, backend: str) -> None:
    real = ALL[kind][0](3, 5, **options_for(kind))
    expected = real(torch.randn(shape_for(kind)))
    with FakeTensorMode():
        module = ALL[kind][0](3, 5, **options_for(kind))
        x = torch.randn(shape_for(kind), requires_grad=True)
        found = module(x)
        alike(found, expected, "cpu")
        sum(t.sum() for t in tensors(found)).backward()
        assert isinstance(x.grad, FakeTensor)
        if kind in LAYERS:
            marks = None if backend == "torch" else torch.zeros(4, 2) > 0
            y, _ = module(x, lengths=torch.tensor([4, 2]), resets=marks)
            assert y.shape == expected[0].shape


@pytest.mark.parametrize("place", range(1, 6))
def test_tensors_of_two_devices_are_refused_while_tracing(place: int) -> None:
    with FakeTensorMode():
        x, h0, c0 = torch.randn(4, 2, 3), torch.randn(1, 2, 5), torch.randn(1, 2, 5)
        weights = [torch.randn(20, 3), torch.randn(20, 5)]
        arguments = [x, h0, c0, weights, torch.ones(2, dtype=torch.int64), torch.ones(4, 2) > 0]
        options = ("lstm", [0], True)
        assert PAIRS["native"].forward(*arguments, *options)[0].shape == (4, 2, 1, 5)
        if place == 3:
            weights[1] = weights[1].to("meta")
        else:
            arguments[place] = arguments[place].to("meta")
        with pytest.raises(RuntimeError, match="expected all tensors on cpu as x is, got meta"):
            PAIRS["native"].forward(*arguments, *options)
