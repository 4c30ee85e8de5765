# SPDX-License-Identifier: MIT
"""from_torch, to_torch and fuse: the same parameters, hooks and places; explain and use_backend."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize
from twins import ALL, CELLS, LAYERS, Tagger, assert_same, assert_same_training, twins

import fused_rnn


def input_for(kind: str) -> Tensor:
    return torch.randn(*((2, 3) if kind in CELLS else (4, 2, 3)), dtype=torch.float64)


def options_for(kind: str) -> dict[str, Any]:
    if kind == "RNNCell":
        return dict(nonlinearity="relu")
    if kind in CELLS:
        return {}
    extra = {"LSTM": dict(proj_size=2), "RNN": dict(nonlinearity="relu"), "GRU": {}}[kind]
    return dict(num_layers=2, bidirectional=True, batch_first=True, dropout=0.25) | extra


@pytest.mark.parametrize("kind", ALL)
def test_there_and_back(kind: str) -> None:
    cls, plain = ALL[kind]
    theirs = plain(3, 5, **options_for(kind), dtype=torch.float64).eval()
    theirs.weight_of_the_user = "kept"
    ours = cls.from_torch(theirs)
    assert type(ours) is cls and not ours.training
    assert repr(ours) == "Fused" + repr(theirs)
    back = ours.to_torch()
    assert type(back) is plain and not back.training
    assert back.weight_of_the_user == "kept"
    assert set(back.__dict__) == set(theirs.__dict__)
    for p, q, r in zip(ours.parameters(), theirs.parameters(), back.parameters(), strict=True):
        assert p is q and r is q
    x = input_for(kind)
    assert_same(ours(x), theirs(x))
    assert_same(back(x), theirs(x))
    assert_same(copy.deepcopy(ours)(x), theirs(x))
    built = cls(3, 5, **options_for(kind))
    assert set(ours.__dict__) - {"weight_of_the_user"} == set(built.__dict__)


@pytest.mark.parametrize("kind", ALL)
def test_the_two_have_registries_of_their_own(kind: str) -> None:
    ours, theirs = twins(kind, 3, 5)
    fused = ALL[kind][0].from_torch(theirs)
    name = next(iter(fused._parameters))
    setattr(fused, name, nn.Parameter(torch.zeros_like(getattr(fused, name))))
    assert getattr(theirs, name).any()


@pytest.mark.parametrize("kind", ALL)
def test_hooks_come_along(kind: str) -> None:
    _, theirs = twins(kind, 3, 5)
    calls: list[str] = []
    handles = [
        theirs.register_forward_pre_hook(lambda m, a: calls.append(type(m).__name__)),
        theirs.register_forward_hook(lambda m, a, k, r: calls.append("after"), with_kwargs=True),
        theirs.register_full_backward_hook(lambda m, i, o: calls.append("backward")),
        theirs.register_state_dict_post_hook(lambda m, state, *rest: calls.append("state_dict")),
        theirs.register_load_state_dict_pre_hook(
            lambda m, d, *rest: calls.append("load into " + type(m).__name__)
        ),
        theirs.register_load_state_dict_post_hook(lambda m, keys: calls.append("loaded")),
    ]
    ours = ALL[kind][0].from_torch(theirs)
    del theirs
    x = input_for(kind).requires_grad_()
    result = ours(x)
    (result[0] if isinstance(result, tuple) else result).sum().backward()
    ours.load_state_dict(ours.state_dict())
    name = type(ours).__name__
    assert calls == [name, "after", "backward", "state_dict", f"load into {name}", "loaded"]
    for handle in handles:
        handle.remove()
    calls.clear()
    ours(x)
    ours.load_state_dict(ours.state_dict())
    assert calls == []


@pytest.mark.parametrize("kind", ALL)
def test_parametrizations_come_along(kind: str) -> None:
    _, theirs = twins(kind, 3, 5)
    name = "weight_hh" if kind in CELLS else "weight_hh_l0"
    parametrizations.weight_norm(theirs, name)
    parametrizations.orthogonal(theirs, name.replace("hh", "ih"))
    cls, plain = ALL[kind]
    ours = cls.from_torch(theirs)
    assert parametrize.type_before_parametrizations(ours) is cls
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert all(p is q for p, q in zip(ours.parameters(), theirs.parameters(), strict=True))
    x = input_for(kind)
    assert_same(ours(x), theirs(x))
    assert_same(ours.to_torch()(x), theirs(x))
    model = fused_rnn.fuse(nn.ModuleList([theirs]))
    assert parametrize.type_before_parametrizations(model[0]) is cls
    parametrize.remove_parametrizations(ours, name)
    assert isinstance(ours._parameters[name], nn.Parameter)
    assert parametrize.type_before_parametrizations(ours.to_torch()) is plain


@pytest.mark.parametrize("kind", ALL)
def test_hooked_norms_come_along(kind: str) -> None:
    _, theirs = twins(kind, 3, 5)
    with pytest.warns(FutureWarning):
        nn.utils.weight_norm(theirs, "weight_hh" if kind in CELLS else "weight_hh_l0")
    ours = ALL[kind][0].from_torch(theirs)
    assert_same_training(ours, theirs, input_for(kind).requires_grad_())


@pytest.mark.parametrize("kind", ALL)
def test_wrong_module(kind: str) -> None:
    for other in (nn.Linear(3, 5), ALL[kind][0](3, 5)):
        with pytest.raises(TypeError, match=f"module: expected torch.nn.{kind}, got"):
            ALL[kind][0].from_torch(other)


@pytest.mark.parametrize("cls", [fused_rnn.FusedGRU, fused_rnn.FusedGRUCell])
def test_textbook_gru_has_no_twin(cls: type[Any]) -> None:
    with pytest.raises(ValueError, match="reset_after: expected True"):
        cls(3, 5, reset_after=False).to_torch()
    # Older pickles and conversions have the usual form.
    assert cls.from_torch(cls(3, 5).to_torch()).reset_after


def test_fuse_nested_shared_and_tied() -> None:
    model = Tagger().double()
    model.layers["other"].eval().requires_grad_(False)
    expected = copy.deepcopy(model)
    keys, parameters = list(model.state_dict()), list(model.parameters())
    assert fused_rnn.fuse(model) is model
    assert type(model.shared) is fused_rnn.FusedGRU
    assert type(model.encoder[1]) is fused_rnn.FusedLSTM
    assert type(model.layers["other"]) is fused_rnn.FusedRNN
    assert type(model.cell) is fused_rnn.FusedGRUCell
    assert model.layers["again"] is model.shared
    assert model.tied.weight_hh_l0 is model.shared.weight_hh_l0
    assert not model.layers["other"].training and model.tied.training
    assert list(model.state_dict()) == keys
    assert all(p is q for p, q in zip(model.parameters(), parameters, strict=True))
    for module in (model, expected):
        module.layers["other"].requires_grad_(True)
    assert_same_training(model, expected, torch.randint(7, (4, 2)))
    assert fused_rnn.fuse(model) is model


@pytest.mark.parametrize("kind", ALL)
def test_fuse_of_a_layer_itself(kind: str) -> None:
    _, theirs = twins(kind, 3, 5)
    ours = fused_rnn.fuse(theirs)
    assert type(ours) is ALL[kind][0]
    assert all(p is q for p, q in zip(ours.parameters(), theirs.parameters(), strict=True))


def warned(model: nn.Module, **options: Any) -> str:
    """What the one warning of fuse says."""
    with pytest.warns(UserWarning) as caught:
        fused_rnn.fuse(model, **options)
    (warning,) = (w for w in caught if w.category is UserWarning)
    assert warning.filename == __file__
    return str(warning.message)


class Recurrent(nn.RNNBase):
    """A layer of its own over torch.nn's base class."""


class Alone(nn.Module):
    """A layer inside a module that can be scripted."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(3, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.rnn(x)[0]


def left_alone() -> nn.ModuleDict:
    """A model with recurrent modules of every kind that fuse cannot take."""
    from torch.ao.nn import quantizable
    from torch.ao.nn.quantized import dynamic

    return nn.ModuleDict(
        {
            "quantized": nn.Sequential(dynamic.LSTMCell(3, 5)),
            "quantizable": quantizable.LSTM(3, 5),
            "scripted": torch.jit.script(Alone()),
            "frozen": torch.jit.freeze(torch.jit.script(Alone().eval())),
            "traced": torch.jit.trace(Alone(), torch.randn(4, 2, 3)),
            "derived": Recurrent("LSTM", 3, 5),
        }
    )


@pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore:.*torch.quantize_per", "ignore::torch.jit.TracerWarning"
)
def test_fuse_names_what_it_leaves() -> None:
    model = left_alone()
    modules, quantized = list(model.modules()), "torch.ao.nn.quanti"
    script = "torch.jit._script.RecursiveScriptModule"
    expected = [
        "fuse leaves as they are:",
        f"  quantized.0: {quantized}zed.dynamic.modules.rnn.LSTMCell, quantised",
        f"  quantizable: {quantized}zable.modules.rnn.LSTM, quantised",
        f"  scripted.rnn: {script}, LSTM in TorchScript",
        f"  frozen: {script}, Alone in TorchScript",
        "  traced.rnn: torch.jit._trace.TracedModule, LSTM in TorchScript",
        f"  derived: {__name__}.Recurrent, derived from torch.nn.RNNBase alone",
    ]
    for options in ({}, {"subclasses": True}):
        assert warned(model, **options).splitlines() == expected
    assert all(m is n for m, n in zip(model.modules(), modules, strict=True))
    model["usual"] = nn.GRU(3, 5)
    assert warned(model).splitlines() == expected
    assert type(model["usual"]) is fused_rnn.FusedGRU


def test_fuse_says_that_there_is_nothing_to_replace() -> None:
    text = "fuse: expected a model with recurrent modules of torch.nn, got none in Sequential"
    assert warned(nn.Sequential(nn.Linear(3, 5))) == text


@pytest.mark.filterwarnings("error")
def test_fuse_is_silent_where_all_is_fused() -> None:
    model = fused_rnn.fuse(Tagger())
    fused_rnn.fuse(model)
    fused_rnn.fuse(fused_rnn.FusedGRU(3, 5))


def test_fuse_on_meta() -> None:
    model = fused_rnn.fuse(Tagger().to("meta"))
    assert {p.device.type for p in model.parameters()} == {"meta"}


@pytest.mark.parametrize("kind", ALL)
def test_backend_by_name_and_by_context(kind: str) -> None:
    ours, theirs = twins(kind, 3, 5)
    x = input_for(kind)
    assert fused_rnn.explain(ours, x).splitlines()[0].split()[0] in ("native", "torch")
    with fused_rnn.use_backend("reference"):
        assert fused_rnn.explain(ours, x).startswith("reference")
        assert_same(ours(x), theirs(x))
        named = ALL[kind][0](3, 5, backend="torch", dtype=torch.float64)
        assert fused_rnn.explain(named, x).startswith("torch")
    named = ALL[kind][0](3, 5, backend="triton", dtype=torch.float64)
    with pytest.raises(RuntimeError, match="backend 'triton' was asked for"):
        named(x)
    with pytest.raises(TypeError, match="module: expected a fused layer or cell, got Linear"):
        fused_rnn.explain(nn.Linear(3, 5), x)


def test_textbook_gru_on_torch_is_refused() -> None:
    module = fused_rnn.FusedGRU(3, 5, reset_after=False, backend="torch")
    with pytest.raises(RuntimeError, match="'torch' was asked for and cannot run this"):
        module(torch.randn(4, 2, 3))


@pytest.mark.parametrize("kind", LAYERS)
def test_explain_packed(kind: str) -> None:
    x = nn.utils.rnn.pack_sequence([torch.randn(3, 3)])
    assert fused_rnn.explain(ALL[kind][0](3, 5, bidirectional=True), x)
