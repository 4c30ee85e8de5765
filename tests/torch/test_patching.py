# SPDX-License-Identifier: MIT
"""patched_torch_nn: what torch.nn's names lead to inside and afterwards, and for whom."""

import copy
import pickle
from threading import Thread
from types import ModuleType
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor, nn
from twins import ALL, DOUBLE, assert_same

import fused_rnn
from fused_rnn import patched_torch_nn

PLACES = (torch.nn, torch.nn.modules, torch.nn.modules.rnn)
PLAIN = {kind: plain for kind, (_, plain) in ALL.items()}
FUSED = {kind: fused for kind, (fused, _) in ALL.items()}


def names() -> dict[str, type]:
    """What the names lead to, which is the same everywhere."""
    first, *others = ({kind: getattr(place, kind) for kind in ALL} for place in PLACES)
    assert all(other == first for other in others)
    return first


@pytest.fixture(autouse=True)
def restored() -> Any:
    """Holds each test to leaving torch.nn as it was."""
    yield
    assert names() == PLAIN and {type(place) for place in PLACES} == {ModuleType}


def test_inside_and_afterwards() -> None:
    with patched_torch_nn():
        assert names() == FUSED
        from torch.nn import GRUCell

        assert GRUCell is fused_rnn.FusedGRUCell
        module = nn.LSTM(3, 5, batch_first=True)
        assert type(module) is nn.LSTM and isinstance(module, nn.LSTM)
        assert getattr(torch.nn, "RNN")(3, 5, nonlinearity="relu").mode == "RNN_RELU"  # noqa: B009
    assert names() == PLAIN
    assert type(module) is fused_rnn.FusedLSTM


def test_as_a_call() -> None:
    patch = patched_torch_nn()
    assert names() == FUSED
    patch.remove()
    assert names() == PLAIN
    patch.remove()
    assert names() == PLAIN


def test_overlapping() -> None:
    first, second = patched_torch_nn(), patched_torch_nn()
    with patched_torch_nn():
        first.remove()
        first.remove()
    assert names() == FUSED
    second.remove()


def test_an_exception_ends_it() -> None:
    with pytest.raises(KeyError), patched_torch_nn(), patched_torch_nn():
        raise KeyError
    assert names() == PLAIN


def test_all_threads_see_it() -> None:
    found: list[type] = []
    with patched_torch_nn():
        thread = Thread(target=lambda: found.append(nn.GRU))
        thread.start()
        thread.join()
    assert found == [fused_rnn.FusedGRU]


def test_conversions_lead_to_torchs_own_classes() -> None:
    with patched_torch_nn():
        model = nn.Sequential(nn.LSTM(3, 5))
        assert type(model[0].to_torch()) is PLAIN["LSTM"]
        assert type(fused_rnn.unfuse(model)[0]) is PLAIN["LSTM"]
        assert type(fused_rnn.fuse(model)[0]) is nn.LSTM


@pytest.mark.parametrize("kind", ALL)
def test_subclasses_defined_inside(kind: str) -> None:
    with patched_torch_nn():

        class Own(getattr(nn, kind)):
            def __init__(self, size: int) -> None:
                super().__init__(size, size, dtype=DOUBLE)

            def forward(self, input: Tensor, hx: Any = None) -> Any:
                return super().forward(input * 2, hx)

    module = Own(3)
    assert isinstance(module, FUSED[kind])
    x = torch.randn(2, 3, dtype=DOUBLE)
    assert_same(module(x), FUSED[kind].forward(module, x * 2))


def test_pickles() -> None:
    module, plain = fused_rnn.FusedLSTM(3, 5), nn.LSTM(3, 5)
    with patched_torch_nn():
        assert type(pickle.loads(pickle.dumps(module))) is fused_rnn.FusedLSTM
        assert type(copy.deepcopy(plain)) is PLAIN["LSTM"]
        with pytest.raises(pickle.PicklingError, match="not the same object"):
            pickle.dumps(plain)


def test_other_patches() -> None:
    with patched_torch_nn():
        with mock.patch("torch.nn.LSTM", int):
            assert nn.LSTM is int
        assert nn.LSTM is fused_rnn.FusedLSTM
        # It puts back what it found by the name.
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.nn, "LSTM", int)
            assert nn.LSTM is int
        assert nn.LSTM is fused_rnn.FusedLSTM
    assert names() == PLAIN
    with mock.patch("torch.nn.LSTM", int), patched_torch_nn():
        assert nn.LSTM is int and nn.GRU is fused_rnn.FusedGRU


@pytest.mark.parametrize("kind", ALL)
def test_compiled_inside_and_afterwards(kind: str) -> None:
    x = torch.randn(2, 3, dtype=DOUBLE)
    plain = PLAIN[kind](3, 5, dtype=DOUBLE)
    with patched_torch_nn():
        module = getattr(nn, kind)(3, 5, dtype=DOUBLE)
        torch._dynamo.reset()
        fast = torch.compile(nn.Sequential(module), backend="eager", fullgraph=True)
        assert_same(fast(x), module(x))
        if not kind.endswith("Cell"):
            # As ever: an unrolled graph would lose the dropout.
            with pytest.raises(torch._dynamo.exc.Unsupported, match="RNN, GRU, or LSTM"):
                torch.compile(plain, backend="eager", fullgraph=True)(x)
    assert_same(fast(x), module(x))
    torch._dynamo.reset()
    assert_same(torch.compile(module, backend="eager", fullgraph=True)(x), module(x))


def test_names_in_compiled_code_are_those_of_eager_code() -> None:
    def where(x: Tensor) -> Tensor:
        return x + 1 if issubclass(nn.LSTM, fused_rnn.FusedLSTM) else x

    x = torch.zeros(1)
    torch._dynamo.reset()
    fast = torch.compile(where, backend="eager", fullgraph=True)
    assert fast(x) == 0
    with patched_torch_nn():
        assert fast(x) == 1
    assert fast(x) == 0
