# SPDX-License-Identifier: MIT
"""Weights that are computed: weight_norm, spectral_norm, parametrizations; once per forward."""

import copy
import io
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize
from twins import ALL, CELLS, assert_same, assert_same_training, tensors, twins


def names(kind: str) -> tuple[str, str]:
    return ("weight_ih", "weight_hh") if kind in CELLS else ("weight_ih_l0", "weight_hh_l0")


def input_for(kind: str) -> Tensor:
    return torch.randn(*((2, 3) if kind in CELLS else (4, 2, 3)), dtype=torch.float64)


def old_style(function: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    def apply(module: nn.Module, name: str) -> nn.Module:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            return function(module, name)

    return apply


NORMS: dict[str, Callable[..., nn.Module]] = {
    "weight_norm": parametrizations.weight_norm,
    "orthogonal": parametrizations.orthogonal,
    "weight_norm by hook": old_style(nn.utils.weight_norm),
}


class Counting(nn.Module):
    """Halves a weight, and counts how often."""

    calls = 0

    def forward(self, weight: Tensor) -> Tensor:
        self.calls += 1
        return weight * 0.5

    def right_inverse(self, weight: Tensor) -> Tensor:
        return weight * 2


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("kind", ALL)
def test_norms_train_as_in_torch(kind: str, norm: str) -> None:
    ours, theirs = twins(kind, 3, 5)
    for module in (ours, theirs):
        torch.manual_seed(0)
        for name in names(kind):
            NORMS[norm](module, name)
    theirs.load_state_dict(ours.state_dict())
    assert_same_training(ours, theirs, input_for(kind))


@pytest.mark.parametrize("kind", ALL)
def test_each_is_evaluated_once_per_forward(kind: str) -> None:
    # torch.nn's layers evaluate each two to four times.
    module, _ = twins(kind, 3, 5)
    counters = [Counting(), Counting()]
    for name, counter in zip(names(kind), counters, strict=True):
        parametrize.register_parametrization(module, name, counter)
        counter.calls = 0
    for calls in (1, 2):
        module(input_for(kind))
        assert [counter.calls for counter in counters] == [calls, calls]


@pytest.mark.parametrize("kind", ALL)
def test_spectral_norm_takes_one_power_step(kind: str) -> None:
    module, _ = twins(kind, 3, 5)
    name = names(kind)[1]
    torch.manual_seed(0)
    parametrizations.spectral_norm(module, name)
    inner = module.parametrizations[name][0]
    alone = copy.deepcopy(inner)
    module(input_for(kind))
    alone(module.parametrizations[name].original)
    assert_same(inner._u, alone._u)
    module.eval()
    before = inner._u.clone()
    module(input_for(kind))
    assert torch.equal(inner._u, before)


@pytest.mark.parametrize("kind", ALL)
def test_spectral_norm_by_hook(kind: str) -> None:
    ours, theirs = twins(kind, 3, 5)
    for module in (ours, theirs):
        torch.manual_seed(0)
        old_style(nn.utils.spectral_norm)(module, names(kind)[1])
    assert_same(ours(input_for(kind) * 0 + 1), theirs(input_for(kind) * 0 + 1))


@pytest.mark.parametrize("kind", ALL)
def test_cached(kind: str) -> None:
    module, _ = twins(kind, 3, 5)
    counter = Counting()
    parametrize.register_parametrization(module, names(kind)[1], counter)
    counter.calls = 0
    with parametrize.cached():
        module(input_for(kind))
        module(input_for(kind))
    assert counter.calls == 1


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("kind", ALL)
def test_deepcopy_after_a_forward(kind: str, norm: str) -> None:
    module, _ = twins(kind, 3, 5)
    NORMS[norm](module, names(kind)[1])
    x = input_for(kind)
    before = module(x)
    twin = copy.deepcopy(module)
    assert_same(twin(x), before)
    with torch.no_grad():
        next(iter(twin.parameters())).mul_(2)
    assert not torch.equal(tensors(twin(x))[0], tensors(before)[0])
    assert_same(module(x), before)


@pytest.mark.parametrize("kind", ALL)
def test_pickle_after_a_forward(kind: str) -> None:
    module, _ = twins(kind, 3, 5)
    NORMS["weight_norm by hook"](module, names(kind)[1])
    x = input_for(kind)
    before = module(x)
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    assert_same(torch.load(file, weights_only=False)(x), before)


@pytest.mark.parametrize("kind", ALL)
def test_removal_gives_a_parameter_back(kind: str) -> None:
    ours, theirs = twins(kind, 3, 5)
    name = names(kind)[1]
    parametrize.register_parametrization(ours, name, Counting())
    parametrize.remove_parametrizations(ours, name)
    assert sorted(ours.state_dict()) == sorted(theirs.state_dict())
    assert_same_training(ours, theirs_in_order(ours, theirs), input_for(kind))


def theirs_in_order(ours: nn.Module, theirs: nn.Module) -> nn.Module:
    """`theirs` with its parameters in the order that a removal left in `ours`."""
    order = list(ours._parameters)
    theirs._parameters = {name: theirs._parameters[name] for name in order}
    return theirs


@pytest.mark.parametrize("kind", ALL)
def test_pruning(kind: str) -> None:
    from torch.nn.utils import prune

    ours, theirs = twins(kind, 3, 5)
    for module in (ours, theirs):
        prune.l1_unstructured(module, names(kind)[1], amount=0.5)
    assert_same_training(ours, theirs, input_for(kind))
