# SPDX-License-Identifier: MIT
"""Weights laid out for cuDNN: which calls would be made, with its functions played on the CPU."""

import copy
import io
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from twins import LAYERS, assert_same, assert_same_training, twins

import fused_rnn
from fused_rnn.backends import aten
from fused_rnn.nn import flat_weights

Call = tuple[Any, ...]
# cuDNN's numbers, which a build of PyTorch without it does not know.
MODES = {"RNN_TANH": 1, "LSTM": 2, "GRU": 3}


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Call]]:
    """cuDNN takes what lies on the CPU, and its function moves weights into one buffer."""
    made: list[Call] = []

    def flatten(weights: list[Tensor], *sizes: Any) -> Tensor:
        made.append(([tuple(weight.shape) for weight in weights], *sizes))
        buffer = weights[0].new_empty(sum(weight.numel() for weight in weights))
        # All matrices before all biases, as cuDNN has them.
        at = 0
        for weight in sorted(weights, key=lambda weight: -weight.dim()):
            place = buffer[at : at + weight.numel()].view_as(weight)
            at += weight.numel()
            weight.set_(place.copy_(weight))
        return buffer

    monkeypatch.setattr(torch, "_cudnn_rnn_flatten_weight", flatten, raising=False)
    monkeypatch.setattr(flat_weights, "_suits_cudnn", lambda weight: True)
    monkeypatch.setattr(flat_weights, "get_cudnn_mode", MODES.get)
    with fused_rnn.use_backend("torch"):
        yield made


def stored_together(module: nn.Module) -> bool:
    storages = {p.untyped_storage().data_ptr() for p in module.parameters()}
    return len(storages) == 1


@pytest.mark.parametrize("both", [False, True], ids=["one", "both"])
@pytest.mark.parametrize("kind", LAYERS)
def test_the_whole_stack_is_one_call(kind: str, both: bool, calls: list[Call]) -> None:
    module = LAYERS[kind][0](3, 5, 2, bidirectional=both, batch_first=True)
    (call,) = calls
    assert call[1:] == (4, 3, MODES[module.mode], 5, 0, 2, True, both)
    assert call[0] == [tuple(p.shape) for p in module.parameters()]
    assert stored_together(module)


def test_with_dropout_each_layer_is_a_call(calls: list[Call]) -> None:
    module = fused_rnn.FusedLSTM(3, 5, 2, dropout=0.5, proj_size=2, bias=False, bidirectional=True)
    assert [call[1:] for call in calls] == [
        (3, 3, 2, 5, 2, 1, False, True),
        (3, 4, 2, 5, 2, 1, False, True),
    ]
    assert [len(call[0]) for call in calls] == [6, 6]
    # Laid out by layers, and then, for calls of the whole, again.
    module.flatten_parameters()
    assert len(calls) == 2
    module.dropout = 0.0
    module.flatten_parameters()
    assert len(calls) == 3 and stored_together(module)
    module.dropout = 0.5
    module.flatten_parameters()
    assert len(calls) == 5


@pytest.mark.parametrize("kind", LAYERS)
def test_values_and_objects_stay(kind: str, calls: list[Call]) -> None:
    ours, theirs = twins(kind, 3, 5, 2, bidirectional=True)
    before = list(ours.parameters())
    ours.double().flatten_parameters()
    assert all(p is q for p, q in zip(before, ours.parameters(), strict=True))
    assert_same_training(ours, theirs, torch.randn(4, 2, 3, dtype=torch.float64).requires_grad_())
    ours.float()
    assert len(calls) == 2 and stored_together(ours)


def test_what_stands_together_is_left_there(calls: list[Call]) -> None:
    """Captured graphs hold its addresses."""
    module = fused_rnn.FusedGRU(3, 5)
    addresses = [p.data_ptr() for p in module.parameters()]
    other = fused_rnn.FusedGRU(3, 5).state_dict()
    calls.clear()
    module.load_state_dict(other)
    module.flatten_parameters()
    module.weight_ih_l0.data.zero_()
    module.bias_ih_l0.data.copy_(module.bias_hh_l0)
    module.flatten_parameters()
    assert not calls and addresses == [p.data_ptr() for p in module.parameters()]
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    assert stored_together(loaded) and not calls
    assert stored_together(copy.deepcopy(module)) and len(calls) == 1


@pytest.mark.parametrize("swapped", [False, True], ids=["assigned", "swapped"])
def test_loading_that_moves_weights(swapped: bool, calls: list[Call]) -> None:
    module, other = twins("GRU", 3, 5)
    calls.clear()
    torch.__future__.set_swap_module_params_on_conversion(swapped)
    try:
        module.load_state_dict(copy.deepcopy(other).state_dict(), assign=True)
    finally:
        torch.__future__.set_swap_module_params_on_conversion(False)
    assert len(calls) == 1 and stored_together(module)
    x = torch.randn(4, 2, 3, dtype=torch.float64)
    assert_same(module(x), other(x))


def test_written_data_is_computed_with_until_it_is_flattened(calls: list[Call]) -> None:
    module, other = twins("GRU", 3, 5)
    x = torch.randn(4, 2, 3, dtype=torch.float64)
    for mine, p in zip(module.parameters(), other.parameters(), strict=True):
        mine.data = p.detach().clone()
    assert_same(module(x), other(x))
    # It would part from what was tied by its memory: only who asks moves it.
    module.load_state_dict(other.state_dict())
    assert len(calls) == 1
    module.flatten_parameters()
    assert len(calls) == 2 and stored_together(module)
    assert_same(module(x), other(x))


def test_tied_weights(calls: list[Call]) -> None:
    module = fused_rnn.FusedGRU(3, 5, bidirectional=True)
    module.bias_ih_l0_reverse = module.bias_ih_l0
    calls.clear()
    module.flatten_parameters()
    module.double()
    assert not calls and module.bias_ih_l0_reverse is module.bias_ih_l0
    # One object in two modules is in the buffer of the last.
    first, second = fused_rnn.FusedGRU(3, 5), fused_rnn.FusedGRU(3, 5)
    second.weight_hh_l0 = first.weight_hh_l0
    calls.clear()
    nn.ModuleList([first, second]).double()
    assert len(calls) == 2 and stored_together(second)
    assert first.weight_hh_l0 is second.weight_hh_l0


def plain_tensor(module: Any) -> None:
    weight = module.weight_hh_l0.detach()
    del module.weight_hh_l0
    module.weight_hh_l0 = weight


def deleted(module: Any) -> None:
    del module.weight_hh_l0


def of_another_type(module: Any) -> None:
    module.weight_hh_l0 = nn.Parameter(module.weight_hh_l0.detach().double())


def of_a_subclass(module: Any) -> None:
    class Own(nn.Parameter):
        pass

    module.weight_hh_l0 = Own(module.weight_hh_l0.detach().clone())


def parametrized(module: Any) -> None:
    parametrizations.weight_norm(module, "weight_hh_l0")


@pytest.mark.parametrize(
    "change",
    [plain_tensor, deleted, of_another_type, of_a_subclass, parametrized],
    ids=lambda change: change.__name__,
)
def test_others_are_left_alone(change: Any, calls: list[Call]) -> None:
    module = fused_rnn.FusedGRU(3, 5)
    change(module)
    calls.clear()
    module.flatten_parameters()
    assert not calls


def test_only_where_pytorchs_layers_run(calls: list[Call]) -> None:
    with fused_rnn.use_backend("reference"):
        module = fused_rnn.FusedGRU(3, 5)
    fused_rnn.FusedGRU(3, 5, backend="reference")
    assert not calls
    module.flatten_parameters()
    assert len(calls) == 1


def test_nothing_is_flattened_here() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    with fused_rnn.use_backend("torch"):
        module = fused_rnn.FusedGRU(3, 5)
        module.flatten_parameters()
    assert not stored_together(module)
    fused_rnn.FusedGRU(3, 5, device="meta").flatten_parameters()


def test_called_from_a_forward(calls: list[Call]) -> None:
    """A graph is whole for all that, and moves nothing."""

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = fused_rnn.FusedGRU(3, 5, backend="torch")

        def forward(self, x: Tensor) -> Tensor:
            self.rnn.flatten_parameters()
            return self.rnn(x)[0]

    model = Model()
    for p in model.parameters():
        p.data = p.detach().clone()
    calls.clear()
    torch._dynamo.reset()
    torch.compile(model, fullgraph=True, backend="eager")(torch.randn(4, 2, 3))
    assert not calls
    model(torch.randn(4, 2, 3))
    assert len(calls) == 1


def test_conversion_lays_out_anew(calls: list[Call]) -> None:
    plain = nn.LSTM(3, 5, 2, dropout=0.5)
    model = fused_rnn.fuse(nn.Sequential(plain))
    assert len(calls) == 2
    assert all(p is q for p, q in zip(model.parameters(), plain.parameters(), strict=True))


def counted(monkeypatch: pytest.MonkeyPatch, kind: str) -> list[int]:
    """How many layers each call of PyTorch's function is given."""
    name = "rnn_tanh" if kind == "RNN" else kind.lower()
    layers, run = [], aten.FUNCTIONS[name]

    def count(*arguments: Any) -> Any:
        # Weights, bias, layers.
        weights = next(at for at, given in enumerate(arguments) if isinstance(given, list))
        layers.append(arguments[weights + 2])
        return run(*arguments)

    monkeypatch.setitem(aten.FUNCTIONS, name, count)
    return layers


@pytest.mark.parametrize("ragged", [False, True], ids=["padded", "lengths"])
@pytest.mark.parametrize("kind", LAYERS)
def test_calls_are_given_what_lies_together(
    kind: str, ragged: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    layers = counted(monkeypatch, kind)
    x = torch.randn(4, 3, 3, dtype=torch.float64, requires_grad=True)
    lengths = [4, 0, 2] if ragged else None
    made = [LAYERS[kind][0](3, 5, 2, bidirectional=True, dtype=torch.float64) for _ in range(2)]
    made[1].load_state_dict(made[0].state_dict())
    results = []
    for module, backend in zip(made, ("torch", "reference"), strict=True):
        with fused_rnn.use_backend(backend):
            y, state = module(x, lengths=lengths)
        states = state if isinstance(state, tuple) else (state,)
        leaves = [x, *module.parameters()]
        grads = torch.autograd.grad([y.sum(), *(s.square().sum() for s in states)], leaves)
        results.append([y, *states, *grads])
    assert_same(*results)
    assert layers == [2]


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_calls_with_dropout(training: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    layers = counted(monkeypatch, "GRU")
    module = fused_rnn.FusedGRU(3, 5, 2, dropout=0.5, backend="torch").train(training)
    module(torch.randn(4, 2, 3))
    assert layers == [1, 1]
