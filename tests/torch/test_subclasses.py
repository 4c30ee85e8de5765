# SPDX-License-Identifier: MIT
"""Subclasses of torch.nn's layers and cells: who is taken, what stays theirs, copies of them."""

import copy
import io
import pickle
from abc import ABC, abstractmethod
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from twins import assert_same, assert_same_training

import fused_rnn


class Counted(nn.GRU):
    """Adds to what torch.nn's class has, and computes the same."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.answer = 42

    def count(self) -> int:
        return self.num_layers * self.answer

    def extra_repr(self) -> str:
        return super().extra_repr() + ", counted"


class Doubled(nn.LSTM):
    def forward(self, input: Tensor, hx: Any = None) -> Any:
        return super().forward(input * 2, hx)


class DoubledByName(nn.RNN):
    def forward(self, input: Tensor, hx: Any = None) -> Any:
        return super(DoubledByName, self).forward(input * 2, hx)  # noqa: UP008


class DoubledElsewhere(nn.LSTM):
    def forward(self, input: Tensor, hx: Any = None) -> Any:
        return self.run(input * 2, hx=hx)

    def run(self, input: Tensor, hx: Any) -> Any:
        return (lambda: super(DoubledElsewhere, self).forward(input, hx))()


class Mixin(ABC, nn.RNNBase):
    """A forward above torch.nn's class, with an argument of its own, as forecasters have it."""

    @abstractmethod
    def start(self, input: Tensor) -> Any: ...

    def forward(self, input: Tensor, hx: Any = None, half: bool = False) -> Any:
        return super().forward(input / 2 if half else input, hx=self.start(input))


class Mixed(Mixin, nn.LSTM):
    def start(self, input: Tensor) -> Any:
        state = input.new_ones(self.num_layers, input.size(1), self.hidden_size)
        return state, state


class Deeper(Doubled):
    def forward(self, input: Tensor, hx: Any = None) -> Any:
        output, state = super().forward(input, hx)
        return output + 1, state


class Cell(nn.LSTMCell):
    def forward(self, input: Tensor, hx: Any = None) -> Any:
        h, c = super().forward(input, hx)
        return h.relu(), c


TAKEN = (Counted, Doubled, DoubledByName, DoubledElsewhere, Mixed, Deeper, Cell)


class Unrelated(nn.LSTM):
    def forward(self, input: Tensor, hx: Any = None) -> Any:
        return input, hx


class Explicit(nn.LSTM):
    def forward(self, input: Tensor, hx: Any = None) -> Any:
        return nn.LSTM.forward(self, input, hx)


class Lenient(nn.LSTM):
    def check_forward_args(self, *args: Any) -> None:
        pass


class Crowded(nn.GRU):
    def _weights(self) -> None:
        pass


class Owner(nn.GRU):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.backend = "mine"


REFUSED = {
    Unrelated: "its forward does not call torch.nn.LSTM's through super()",
    Explicit: "its forward does not call torch.nn.LSTM's through super()",
    Lenient: "it overrides check_forward_args, which torch.nn's forward calls",
    Crowded: "the fused class needs _weights for itself",
    Owner: "the fused class needs backend for itself",
}


def twin_in_torch(cls: type[nn.Module]) -> type[nn.Module]:
    return next(base for base in cls.__mro__ if base in (nn.RNN, nn.GRU, nn.LSTM, nn.LSTMCell))


def fused_class(cls: type[nn.Module]) -> Any:
    return getattr(fused_rnn, f"Fused{twin_in_torch(cls).__name__}")


def input_for(module: nn.Module) -> Tensor:
    shape = (2, 3) if isinstance(module, nn.RNNCellBase) else (4, 2, 3)
    return torch.randn(shape, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("cls", TAKEN)
def test_taken_when_asked(cls: type[nn.Module]) -> None:
    theirs = cls(3, 5).double().eval()
    plain = copy.deepcopy(theirs)
    reason = f"a subclass of torch.nn.{twin_in_torch(cls).__name__}, taken with subclasses=True"
    model = nn.Sequential(theirs)
    with pytest.warns(UserWarning) as caught:
        fused_rnn.fuse(model)
    assert model[0] is theirs and len(caught) == 1
    assert f"0: {__name__}.{cls.__name__}, {reason}" in str(caught[0].message)
    with pytest.raises(TypeError) as error:
        fused_class(cls).from_torch(theirs)
    assert str(error.value).endswith(f"got {cls.__name__}: {reason}")
    fused_rnn.fuse(model, subclasses=True)
    ours = model[0]
    assert isinstance(ours, cls) and isinstance(ours, fused_class(cls))
    assert type(ours) is type(fused_class(cls).from_torch(theirs, subclasses=True))
    assert not ours.training and list(ours.state_dict()) == list(theirs.state_dict())
    assert all(p is q for p, q in zip(ours.parameters(), theirs.parameters(), strict=True))
    assert_same_training(ours, plain, input_for(theirs))


@pytest.mark.parametrize("cls", TAKEN)
def test_the_fused_layer_runs_underneath(cls: type[nn.Module]) -> None:
    ours = fused_class(cls).from_torch(cls(3, 5).double(), subclasses=True)
    ours.backend = "triton"
    with pytest.raises(RuntimeError, match="'triton' was asked for"):
        ours(input_for(ours))


@pytest.mark.parametrize("cls", REFUSED)
def test_refused_by_both(cls: type[nn.Module]) -> None:
    module = cls(3, 5)
    model = nn.ModuleDict({"rnn": module, "plain": nn.GRU(3, 5)})
    with pytest.warns(UserWarning) as caught:
        fused_rnn.fuse(model, subclasses=True)
    assert model["rnn"] is module and type(model["plain"]) is fused_rnn.FusedGRU
    assert f"rnn: {__name__}.{cls.__name__}, {REFUSED[cls]}" in str(caught[0].message)
    with pytest.raises(TypeError) as error:
        fused_class(cls).from_torch(module, subclasses=True)
    assert str(error.value).endswith(REFUSED[cls])


def test_what_a_subclass_adds_stays() -> None:
    ours = fused_rnn.fuse(Counted(3, 5, num_layers=2), subclasses=True)
    assert ours.count() == 84
    assert repr(ours).endswith("(3, 5, num_layers=2, counted)")
    mixed = fused_rnn.fuse(Mixed(3, 5).double(), subclasses=True)
    x = input_for(mixed)
    assert_same(mixed(x, half=True), mixed(x / 2))
    assert_same(mixed.start(x), mixed.to_torch().start(x))


WAYS = {
    "pickle": lambda module: pickle.loads(pickle.dumps(module)),
    "oldest pickle": lambda module: pickle.loads(pickle.dumps(module, protocol=2)),
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
    "torch.save": lambda module: through_torch_save(module),
}


def through_torch_save(module: nn.Module) -> Any:
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("cls", TAKEN)
def test_copies(cls: type[nn.Module], way: str) -> None:
    ours = fused_class(cls).from_torch(cls(3, 5).double(), subclasses=True)
    x = input_for(ours)
    again = WAYS[way](ours)
    assert type(again) is type(ours)
    assert_same(again(x), ours(x))
    again.load_state_dict(cls(3, 5).state_dict())


@pytest.mark.parametrize("cls", [Doubled, Mixed, Cell])
def test_one_graph(cls: type[nn.Module]) -> None:
    torch._dynamo.reset()
    ours = fused_class(cls).from_torch(cls(3, 5).double(), subclasses=True)
    x = input_for(ours)
    assert_same(torch.compile(ours, backend="aot_eager", fullgraph=True)(x), ours(x))


@pytest.mark.parametrize("cls", [Doubled, Mixed, Cell])
def test_parametrized(cls: type[nn.Module]) -> None:
    theirs = cls(3, 5).double()
    parametrizations.weight_norm(theirs, "weight_hh" if cls is Cell else "weight_hh_l0")
    ours = fused_class(cls).from_torch(theirs, subclasses=True)
    x = input_for(ours)
    assert isinstance(ours, cls)
    assert_same(ours(x), theirs(x))
    assert_same(copy.deepcopy(ours)(x), theirs(x))
    back = ours.to_torch()
    assert isinstance(back, cls) and not isinstance(back, fused_class(cls))
    assert_same(back(x), theirs(x))


@pytest.mark.parametrize("cls", TAKEN)
def test_the_way_back(cls: type[nn.Module]) -> None:
    theirs = cls(3, 5).double()
    plain, x = copy.deepcopy(theirs), input_for(theirs)
    model = fused_rnn.unfuse(fused_rnn.fuse(nn.Sequential(theirs), subclasses=True))
    assert type(model[0]) is cls
    assert_same(model[0](x), plain(x))
    assert set(model[0].__dict__) == set(plain.__dict__)


class Nested(nn.LSTM):
    """A subclass with a layer of its own inside."""

    def __init__(self) -> None:
        super().__init__(3, 3)
        self.inner = nn.GRU(3, 3)

    def forward(self, input: Tensor, hx: Any = None) -> Any:
        return super().forward(self.inner(input)[0], hx)


def test_layers_inside_a_subclass() -> None:
    model = Nested()
    with pytest.warns(UserWarning, match="the model itself: .*Nested, a subclass of"):
        assert fused_rnn.fuse(model) is model
    assert type(model.inner) is fused_rnn.FusedGRU
    ours = fused_rnn.fuse(Nested(), subclasses=True)
    assert isinstance(ours, fused_rnn.FusedLSTM) and type(ours.inner) is fused_rnn.FusedGRU
    back = fused_rnn.unfuse(ours)
    assert type(back) is Nested and type(back.inner) is nn.GRU


def test_what_torch_made_of_a_layer_is_left() -> None:
    module = nn.LSTM(3, 5)
    # As FSDP does it.
    module.__class__ = type("FSDPLSTM", (nn.LSTM,), {"__module__": "torch.distributed.fsdp"})
    with pytest.warns(UserWarning, match="wrapped by torch: fuse before that"):
        assert fused_rnn.fuse(module, subclasses=True) is module


class Named(nn.LSTM):
    """Keeps things of its own under names that are options of the fused class."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.layer_norm = nn.LayerNorm(self.hidden_size)
        self.activation = torch.relu
        self.recurrent_dropout = 0.5
        self.zoneout = "none"
        self.clip = 5.0

    def forward(self, input: Tensor, hx: Any = None) -> Any:
        output, state = super().forward(input, hx)
        return self.activation(self.layer_norm(output)) * self.recurrent_dropout, state


class NamedAboveOurs(fused_rnn.FusedLSTM):
    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.layer_norm = nn.LayerNorm(self.hidden_size)
        self.activation = torch.relu

    def forward(self, input: Tensor, hx: Any = None, **options: Any) -> Any:
        output, state = super().forward(input, hx, **options)
        return self.activation(self.layer_norm(output)), state


def test_names_of_options_are_left_to_subclasses() -> None:
    theirs = Named(3, 4).double()
    x = torch.randn(5, 2, 3, dtype=torch.float64)
    ours = fused_rnn.fuse(copy.deepcopy(theirs), subclasses=True)
    assert isinstance(ours, fused_rnn.FusedLSTM)
    for one in (ours, copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert_same(one(x), theirs(x))
        assert isinstance(one.layer_norm, nn.LayerNorm) and one.zoneout == "none"
        assert one.clip == 5.0
        assert one.peephole is False
    ours.recurrent_dropout = 0.25
    theirs.recurrent_dropout = 0.25
    assert_same(ours(x), theirs(x))
    back = fused_rnn.unfuse(ours)
    assert type(back) is Named and back.recurrent_dropout == 0.25
    assert not hasattr(back, "peephole")
    assert_same(back(x), theirs(x))
    layer = NamedAboveOurs(3, 4).double()
    assert layer(x)[0].shape == (5, 2, 4) and isinstance(layer.layer_norm, nn.LayerNorm)


class Backed(nn.LSTM):
    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.backend = nn.Linear(self.hidden_size, 2)

    def forward(self, input: Tensor, hx: Any = None) -> Any:
        output, state = super().forward(input, hx)
        return self.backend(output), state


def test_a_module_under_a_name_that_is_needed_is_refused() -> None:
    model = nn.Sequential(Backed(3, 4))
    with pytest.warns(UserWarning, match="the fused class needs backend for itself"):
        fused_rnn.fuse(model, subclasses=True)
    assert type(model[0]) is Backed
