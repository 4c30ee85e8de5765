# SPDX-License-Identifier: MIT
"""torch.fx.symbolic_trace takes fused layers and cells for leaves, as it does torch.nn's."""

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch._dynamo.testing import CompileCounter
from torch.nn.utils.rnn import pack_padded_sequence
from twins import (
    ALL,
    CELLS,
    DOUBLE,
    LAYERS,
    assert_same,
    assert_same_training,
    state,
    tensors,
    twins,
)

import fused_rnn


class Around(nn.Module):
    """A recurrence deep inside, and something before and after it."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.before = nn.Linear(3, 3, dtype=DOUBLE)
        self.parts = nn.ModuleDict({"recurrent": inner})

    def forward(self, x: Tensor, hx: Any = None) -> Any:
        found = self.parts["recurrent"](self.before(x).relu(), hx)
        return found[0] * 2, found[1]


class Keywords(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor, lengths: Tensor, resets: Tensor) -> Any:
        return self.layer(x, lengths=lengths, resets=resets)


def input_for(kind: str) -> Tensor:
    shape = (2, 3) if kind in CELLS else (4, 2, 3)
    return torch.randn(shape, dtype=DOUBLE, requires_grad=True)


def leaves(graph: fx.GraphModule) -> list[str]:
    return [str(node.target) for node in graph.graph.nodes if node.op == "call_module"]


@pytest.mark.parametrize("given", [False, True], ids=["zeros", "hx"])
@pytest.mark.parametrize("kind", ALL)
def test_a_model_around_it(kind: str, given: bool) -> None:
    ours, _ = twins(kind, 3, 5)
    model = Around(ours)
    traced = fx.symbolic_trace(model)
    assert leaves(traced) == ["before", "parts.recurrent"]
    assert traced.get_submodule("parts.recurrent") is ours
    hx = (state(kind, *([2, 5] if kind in CELLS else [1, 2, 5])),) if given else ()
    assert_same_training(copy.deepcopy(traced), model, input_for(kind), *hx)


@pytest.mark.parametrize("kind", LAYERS)
def test_keywords(kind: str) -> None:
    model = Keywords(twins(kind, 3, 5)[0])
    traced = fx.symbolic_trace(model)
    resets = torch.rand(4, 2) < 0.3
    args = input_for(kind), torch.tensor([4, 0]), resets
    assert_same(traced(*args), model(*args))
    packed = pack_padded_sequence(input_for(kind), [4, 2])
    assert_same(traced(packed, None, None), model(packed, None, None))


@pytest.mark.parametrize("kind", ALL)
def test_wherever_it_came_from(kind: str) -> None:
    fused, plain = ALL[kind]
    made = fused(3, 5)
    for module in (
        fused_rnn.fuse(plain(3, 5)),
        fused.from_torch(plain(3, 5)),
        copy.deepcopy(made),
        copy.copy(made),
        pickle.loads(pickle.dumps(made)),
        nn.utils.parametrizations.weight_norm(
            fused(3, 5), "weight_hh" if kind in CELLS else "weight_hh_l0"
        ),
    ):
        assert leaves(fx.symbolic_trace(nn.Sequential(module))) == ["0"]
    assert "__module__" not in vars(made.to_torch())


@pytest.mark.parametrize("kind", ALL)
def test_hooks_run_once_a_call(kind: str) -> None:
    module, calls = ALL[kind][0](3, 5), []
    module.register_forward_hook(lambda *_: calls.append(1))
    traced = fx.symbolic_trace(nn.Sequential(module))
    assert not calls
    traced(torch.randn(4, 3))
    assert len(calls) == 1


@pytest.mark.parametrize("kind", ALL)
def test_it_cannot_be_the_root(kind: str) -> None:
    for module in twins(kind, 3, 5):
        with pytest.raises((fx.proxy.TraceError, RuntimeError), match="symbolic"):
            fx.symbolic_trace(module)


@pytest.mark.parametrize("kind", ALL)
def test_nothing_else_takes_it_for_one_of_torch(kind: str) -> None:
    fused, _ = ALL[kind]
    module = fused(3, 5)
    assert fused.__module__.startswith("fused_rnn.") and module.__module__ == "torch.nn"
    assert type(pickle.loads(pickle.dumps(module))) is fused


@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
def test_dynamo_guards_its_attributes(kind: str) -> None:
    """It does not look at those of torch.nn's own modules again."""
    module, _ = twins(kind, 3, 5)
    counter = CompileCounter()
    fast, x = torch.compile(module, backend=counter, fullgraph=True), input_for(kind)
    for batch_first in (False, True):
        module.batch_first = batch_first
        assert_same(tensors(fast(x)), tensors(module(x)))
    assert counter.frame_count == 2
