# SPDX-License-Identifier: MIT
"""The list `_flat_weights`: what is put there is computed with, for as long as in torch.nn."""

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.nn.utils import parametrizations
from twins import LAYERS, assert_same, assert_same_training, tensors, twins

import fused_rnn


def random(index: int, like: Any, seed: int = 1) -> Tensor:
    """The same plain tensor for both modules."""
    draw = torch.Generator().manual_seed(seed + index)
    return torch.randn(like.shape, dtype=like.dtype, generator=draw)


def write(module: Any, index: int = 0) -> None:
    module._flat_weights[index] = random(index, module._flat_weights[index])


def other_state(module: Any) -> dict[str, Tensor]:
    return {name: random(0, p, 5) for name, p in module.state_dict().items()}


def written(module: Any) -> Any:
    write(module)
    write(module, -2)


def written_between_calls(module: Any) -> Any:
    module(X)
    write(module)
    module(X)
    write(module, 1)


def written_to_a_list_in_hand(module: Any) -> Any:
    weights, again = module._flat_weights, module._flat_weights
    module(X)
    weights[0] = random(0, weights[0])
    again[1:3] = [random(1, again[1]), random(2, again[2])]


def another_attribute_set(module: Any) -> Any:
    write(module)
    module.bias_ih_l0 = nn.Parameter(random(2, module.bias_ih_l0))


def the_attribute_set(module: Any) -> Any:
    write(module)
    write(module, 1)
    module.weight_ih_l0 = module.weight_ih_l0


def an_entry_of_the_registry(module: Any) -> Any:
    write(module)
    module._parameters["weight_hh_l0"] = nn.Parameter(random(1, module.weight_hh_l0))


def set_back(module: Any) -> Any:
    before = module.weight_hh_l0
    write(module)
    module.weight_hh_l0 = nn.Parameter(random(1, before))
    module.weight_hh_l0 = before


def set_back_after_a_call(module: Any) -> Any:
    before = module.weight_hh_l0
    write(module)
    module.weight_hh_l0 = nn.Parameter(random(1, before))
    module(X)
    module.weight_hh_l0 = before


def moved(module: Any) -> Any:
    write(module)
    module.to("cpu")


def cast(module: Any) -> Any:
    write(module)
    module.float().double()


def in_training(module: Any) -> Any:
    write(module)
    module.train().requires_grad_(False)


def loaded(module: Any) -> Any:
    write(module)
    module.load_state_dict(other_state(module))


def assigned(module: Any) -> Any:
    write(module)
    module.load_state_dict(other_state(module), assign=True)


def initialised(module: Any) -> Any:
    write(module)
    module._init_flat_weights()


def flattened(module: Any) -> Any:
    write(module)
    module.flatten_parameters()


def deepcopied(module: Any) -> Any:
    write(module)
    return copy.deepcopy(module)


def pickled(module: Any) -> Any:
    write(module)
    return pickle.loads(pickle.dumps(module))


def saved(module: Any) -> Any:
    write(module)
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def a_list_of_tensors(module: Any) -> Any:
    module._flat_weights = [random(i, w) for i, w in enumerate(module._flat_weights)]


def a_list_of_the_same(module: Any) -> Any:
    module._flat_weights = [getattr(module, name) for name in module._flat_weights_names]
    write(module)


def the_usual_way_round_the_cache(module: Any) -> Any:
    for _ in range(2):
        raw = module.weight_hh_l0.detach()
        if "weight_hh_l0" in module._parameters:
            del module._parameters["weight_hh_l0"]
        module.weight_hh_l0 = raw * 0.5
        module._flat_weights = [getattr(module, name) for name in module._flat_weights_names]
        module(X)


def an_attribute_deleted(module: Any) -> Any:
    write(module)
    del module.weight_hh_l0


def called_with_others(module: Any) -> Any:
    write(module)
    torch.func.functional_call(module, other_state(module), (X,))


def parametrized(module: Any) -> Any:
    write(module)
    parametrizations.weight_norm(module, "weight_hh_l0")
    write(module)


X = torch.randn(4, 2, 3, dtype=torch.float64)
CHANGES: list[Callable[[Any], Any]] = [
    *(written, written_between_calls, written_to_a_list_in_hand, another_attribute_set),
    *(the_attribute_set, an_entry_of_the_registry, set_back, set_back_after_a_call, moved, cast),
    *(in_training, loaded, assigned, initialised, flattened, deepcopied, pickled, saved),
    *(a_list_of_tensors, a_list_of_the_same, the_usual_way_round_the_cache),
    *(an_attribute_deleted, called_with_others, parametrized),
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
@pytest.mark.parametrize("kind", LAYERS)
def test_as_in_torch(kind: str, change: Callable[[Any], Any]) -> None:
    ours, theirs = twins(kind, 3, 5)
    plain = ours(X)
    changed = [change(module) or module for module in (ours, theirs)]
    for _ in range(2):
        results = [module(X) for module in changed]
        assert_same(*results)
        assert_same(*(list(module.parameters()) for module in changed))
    kept = all(torch.equal(p, q) for p, q in zip(tensors(plain), tensors(results[0]), strict=True))
    follows = (another_attribute_set, an_entry_of_the_registry, assigned, parametrized)
    forgotten = (set_back_after_a_call, moved, initialised, deepcopied, pickled, saved)
    assert kept == (change in (*forgotten, called_with_others)) or change in (*follows, cast)


@pytest.mark.parametrize("kind", LAYERS)
def test_training(kind: str) -> None:
    ours, theirs = twins(kind, 3, 5, 2, bidirectional=True)
    new = random(0, ours.weight_ih_l1).requires_grad_()
    gradients = []
    for module in (ours, theirs):
        index = module._flat_weights_names.index("weight_ih_l1")
        module._flat_weights[index] = new
        assert isinstance(module.weight_ih_l1, nn.Parameter)
    assert_same_training(ours, theirs, X.clone().requires_grad_())
    for module in (ours, theirs):
        gradients.append(torch.autograd.grad(tensors(module(X))[0].sum(), new))
    assert_same(*gradients)
    assert ours.weight_ih_l1.grad is None


@pytest.mark.parametrize("kind", LAYERS)
def test_a_list_is_made_only_for_those_who_ask(kind: str) -> None:
    module = LAYERS[kind][0](3, 5, dtype=torch.float64)
    before = set(module.__dict__)
    module(X)
    assert set(module.__dict__) == before
    assert module._flat_weights is module._flat_weights
    assert type(module._flat_weights) is list
    assert set(module.__getstate__()) == before - {"__module__"}
    assert set(module._replicate_for_data_parallel().__dict__) == before | {"_is_replica"}


def test_a_replica_has_a_list_of_its_own() -> None:
    module = fused_rnn.FusedGRU(3, 5, dtype=torch.float64)
    write(module)
    replica = module._replicate_for_data_parallel()
    for name, p in module.named_parameters():
        setattr(replica, name, p * 1)
    assert isinstance(module._flat_weights[1], nn.Parameter)
    assert replica._flat_weights[0] is replica.weight_ih_l0


def test_a_list_of_another_length() -> None:
    with pytest.raises(ValueError, match="_flat_weights: expected 4 tensors, got 2"):
        fused_rnn.FusedGRU(3, 5)._flat_weights = [torch.zeros(15, 3), torch.zeros(15, 5)]


@pytest.mark.parametrize("kind", LAYERS)
def test_conversions_keep_what_stands_in_the_list(kind: str) -> None:
    ours, theirs = twins(kind, 3, 5)
    before = ours(X)
    for module in (ours, theirs):
        write(module)
    expected = ours(X)
    assert not torch.equal(before[0], expected[0])
    assert_same(LAYERS[kind][0].from_torch(theirs)(X), expected)
    assert_same(ours.to_torch()(X), expected)
    module = nn.Sequential(theirs)
    assert_same(fused_rnn.fuse(module)[0](X), expected)
    ours.weight_hh_l0 = nn.Parameter(random(1, ours.weight_hh_l0))
    theirs.weight_hh_l0 = ours.weight_hh_l0
    assert_same(ours.to_torch()(X), theirs(X))
    assert_same(LAYERS[kind][0].from_torch(theirs)(X), ours(X))


@pytest.mark.parametrize("kind", LAYERS)
def test_in_compiled_code(kind: str) -> None:
    torch._dynamo.reset()
    module, _ = twins(kind, 3, 5)
    counter = CompileCounterWithBackend("eager")
    fast = torch.compile(module, backend=counter, fullgraph=True)
    before = fast(X)
    assert_same(before, module(X))
    write(module)
    for _ in range(2):
        assert_same(fast(X), module(X))
    assert not torch.equal(before[0], module(X)[0])
    write(module, 1)
    assert_same(fast(X), module(X))
    module.bias_hh_l0 = nn.Parameter(random(3, module.bias_hh_l0))
    assert_same(fast(X), copy.deepcopy(module)(X))
    assert counter.frame_count <= 4
