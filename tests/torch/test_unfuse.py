# SPDX-License-Identifier: MIT
"""unfuse: the way back for whole models."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize
from twins import ALL, CELLS, Tagger, assert_same, assert_same_training, twins

import fused_rnn


def test_nested_shared_and_tied() -> None:
    model = Tagger().double()
    model.layers["other"].eval()
    expected = copy.deepcopy(model)
    keys, parameters = list(model.state_dict()), list(model.parameters())
    assert fused_rnn.unfuse(fused_rnn.fuse(model)) is model
    ours, theirs = ([type(m) for m in one.modules()] for one in (model, expected))
    assert ours == theirs
    assert model.layers["again"] is model.shared
    assert model.tied.weight_hh_l0 is model.shared.weight_hh_l0
    assert not model.layers["other"].training and model.tied.training
    assert list(model.state_dict()) == keys
    assert all(p is q for p, q in zip(model.parameters(), parameters, strict=True))
    assert_same_training(model, expected, torch.randint(7, (4, 2)))
    assert fused_rnn.unfuse(model) is model


@pytest.mark.parametrize("kind", ALL)
def test_a_layer_itself(kind: str) -> None:
    ours, theirs = twins(kind, 3, 5)
    back = fused_rnn.unfuse(ours)
    assert type(back) is type(theirs)
    assert all(p is q for p, q in zip(ours.parameters(), back.parameters(), strict=True))


@pytest.mark.parametrize("kind", ALL)
def test_hooks_and_parametrizations_come_along(kind: str) -> None:
    ours, _ = twins(kind, 3, 5)
    parametrizations.weight_norm(ours, "weight_hh" if kind in CELLS else "weight_hh_l0")
    calls: list[str] = []
    handle = ours.register_forward_hook(lambda m, *rest: calls.append(type(m).__name__))
    x = torch.randn(*((2, 3) if kind in CELLS else (4, 2, 3)), dtype=torch.float64)
    expected = ours(x)
    (back,) = fused_rnn.unfuse(nn.Sequential(ours))
    assert parametrize.type_before_parametrizations(back) is ALL[kind][1]
    assert_same(back(x), expected)
    assert calls == [f"ParametrizedFused{kind}", f"Parametrized{kind}"]
    handle.remove()
    back(x)
    assert len(calls) == 2


@pytest.mark.parametrize("cls", [fused_rnn.FusedGRU, fused_rnn.FusedGRUCell])
def test_textbook_gru_is_refused_before_anything_changes(cls: type[Any]) -> None:
    model = nn.ModuleDict({"first": fused_rnn.FusedLSTM(3, 5), "then": nn.ModuleList()})
    owners: list[nn.Module] = []
    model["first"].register_load_state_dict_pre_hook(lambda m, *rest: owners.append(m))
    model["then"].append(cls(3, 5, reset_after=False))
    layers = list(model.modules())
    with pytest.raises(ValueError, match="^then.0: reset_after: expected True"):
        fused_rnn.unfuse(model)
    assert all(m is n for m, n in zip(model.modules(), layers, strict=True))
    model.load_state_dict(model.state_dict())
    assert owners == [model["first"]]
    with pytest.raises(ValueError, match="^the model itself: reset_after: expected True"):
        fused_rnn.unfuse(model["then"][0])


class Halved(fused_rnn.FusedLSTM):
    def forward(self, input: Tensor, hx: Any = None, **options: Any) -> Any:
        return super().forward(input / 2, hx, **options)


class Sized(fused_rnn.FusedLSTM):
    def __init__(self, size: int) -> None:
        super().__init__(size, size)


def test_classes_derived_from_fused_ones() -> None:
    model = nn.ModuleDict({"halved": Halved(3, 5), "sized": Sized(3)})
    with pytest.warns(UserWarning) as caught:
        fused_rnn.unfuse(model)
    text = f"unfuse leaves as they are:\n  halved: {__name__}.Halved, which has a forward"
    assert len(caught) == 1 and str(caught[0].message).startswith(text)
    assert caught[0].filename == __file__
    assert type(model["halved"]) is Halved and type(model["sized"]) is nn.LSTM
    with pytest.raises(TypeError, match="Halved: expected the forward of FusedLSTM, got one of"):
        model["halved"].to_torch()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*torch.quantize_per")
def test_quantize_dynamic_takes_what_was_unfused() -> None:
    model = nn.Sequential(nn.LSTM(3, 5))
    fused_rnn.fuse(model)
    quantized = []
    for one in (model, fused_rnn.unfuse(copy.deepcopy(model))):
        layer = torch.ao.quantization.quantize_dynamic(one, {nn.LSTM}, torch.qint8)[0]
        quantized.append(type(layer))
    assert quantized == [fused_rnn.FusedLSTM, torch.ao.nn.quantized.dynamic.LSTM]
