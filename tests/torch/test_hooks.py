# SPDX-License-Identifier: MIT
"""Hooks on modules, parameters and saved tensors; checkpointing, anomaly mode, functional_call."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence
from torch.utils.checkpoint import checkpoint
from twins import ALL, CELLS, LAYERS, assert_same, assert_same_training, tensors, twins


def input_for(kind: str) -> Tensor:
    shape = (2, 3) if kind in CELLS else (4, 2, 3)
    return torch.randn(shape, dtype=torch.float64, requires_grad=True)


def loss(result: Any) -> Tensor:
    return sum((t.square().sum() for t in tensors(result)), torch.zeros(()))


@pytest.mark.parametrize("kind", ALL)
def test_forward_hooks(kind: str) -> None:
    module, _ = twins(kind, 3, 5)
    x = input_for(kind)
    expected = tensors(module(x * 2))[0] + 1
    seen = []
    module.register_forward_pre_hook(lambda m, args: (args[0] * 2, *args[1:]))
    module.register_forward_pre_hook(
        lambda m, args, kwargs: seen.append(dict(kwargs)), with_kwargs=True
    )
    module.register_forward_hook(lambda m, args, result: tensors(result)[0] + 1)
    module.register_forward_hook(
        lambda m, args, kwargs, result: seen.append(dict(kwargs)), with_kwargs=True
    )
    assert_same(module(x, hx=None), expected)
    assert seen == [{"hx": None}] * 2


@pytest.mark.parametrize("kind", LAYERS)
def test_forward_pre_hook_that_rewrites_keywords(kind: str) -> None:
    module, _ = twins(kind, 3, 5)
    x = input_for(kind)
    expected = module(x, lengths=[4, 2])
    module.register_forward_pre_hook(
        lambda m, args, kwargs: (args, kwargs | {"lengths": [4, 2]}), with_kwargs=True
    )
    assert_same(module(x), expected)


@pytest.mark.parametrize("kind", ALL)
def test_backward_hooks(kind: str) -> None:
    modules, seen = twins(kind, 3, 5), []
    x = input_for(kind)
    for module in modules:
        calls: list[Any] = []
        module.register_full_backward_pre_hook(lambda m, out, c=calls: c.append(tensors(out)))
        module.register_full_backward_hook(lambda m, into, out, c=calls: c.append(tensors(into)))
        loss(module(x)).backward()
        seen.append(calls)
    for mine, yours in zip(*seen, strict=True):
        assert_same([t for t in mine if t is not None], [t for t in yours if t is not None])
    assert len(seen[0]) == 2


@pytest.mark.parametrize("kind", ALL)
def test_parameter_hooks(kind: str) -> None:
    module, theirs = twins(kind, 3, 5)
    x = input_for(kind)
    after: list[str] = []
    for name, p in module.named_parameters():
        p.register_hook(lambda grad: grad * 2)
        p.register_post_accumulate_grad_hook(lambda p, name=name: after.append(name))
    loss(module(x)).backward()
    loss(theirs(x)).backward()
    for (name, p), q in zip(module.named_parameters(), theirs.parameters(), strict=True):
        assert_same(p.grad, q.grad * 2, name)
    assert sorted(after) == sorted(name for name, _ in module.named_parameters())


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("kind", LAYERS)
def test_checkpointing_with_dropout(kind: str, reentrant: bool, packed: bool) -> None:
    module, _ = twins(kind, 3, 5, 3, dropout=0.5)

    def run(x: Tensor) -> Any:
        return module(pack_padded_sequence(x, [4, 2]) if packed else x)[0][0]

    x = input_for(kind)
    gradients = []
    for checkpointed in (False, True):
        module.zero_grad()
        x.grad = None
        torch.manual_seed(1)
        result = checkpoint(run, x, use_reentrant=reentrant) if checkpointed else run(x)
        loss(result).backward()
        gradients.append([x.grad, *(p.grad for p in module.parameters())])
    for plain, recomputed in zip(*gradients, strict=True):
        assert (plain is None) == (recomputed is None)
        assert plain is None or torch.equal(plain, recomputed)


@pytest.mark.parametrize("kind", ALL)
def test_saved_tensors_hooks(kind: str) -> None:
    ours, theirs = twins(kind, 3, 5)
    x = input_for(kind)
    packs: list[int] = []

    def pack(t: Tensor) -> tuple[int, Tensor]:
        packs.append(t.numel())
        return len(packs), t.clone()

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda kept: kept[1]):
        assert_same_training(ours, theirs, x)
    assert packs
    with torch.autograd.graph.save_on_cpu():
        assert_same_training(ours, theirs, x)


@pytest.mark.filterwarnings("ignore:Anomaly Detection", "ignore:Error detected in")
@pytest.mark.parametrize("kind", ALL)
def test_anomaly_mode(kind: str) -> None:
    ours, theirs = twins(kind, 3, 5)
    with torch.autograd.detect_anomaly(check_nan=True):
        assert_same_training(ours, theirs, input_for(kind))
        result = tensors(ours(input_for(kind)))[0]
        with pytest.raises(RuntimeError, match="returned nan values"):
            result.backward(torch.full_like(result, torch.nan))


def swapped(module: nn.Module, names: Callable[[str], bool]) -> dict[str, Tensor]:
    """New values, as leaves, for the parameters whose names pass."""
    return {
        name: torch.randn_like(p).requires_grad_()
        for name, p in module.named_parameters()
        if names(name)
    }


@pytest.mark.parametrize("kind", ALL)
def test_functional_call(kind: str) -> None:
    ours, theirs = twins(kind, 3, 5)
    x = input_for(kind)
    before = ours(x)
    for names in (lambda name: True, lambda name: "hh" in name):
        new = swapped(ours, names)
        found = []
        for module in (ours, theirs):
            result = torch.func.functional_call(module, new, (x,))
            found.append((result, torch.autograd.grad(loss(result), list(new.values()))))
        assert_same(*found)
    assert_same(ours(x), before)


@pytest.mark.parametrize("kind", ALL)
def test_tied_functional_call(kind: str) -> None:
    ours, theirs = twins(kind, 3, 5)
    new = swapped(ours, lambda name: "bias_ih" in name)
    name, bias = next(iter(new.items()))
    both = {name: bias, name.replace("ih", "hh"): bias}
    x = input_for(kind)
    assert_same(*(torch.func.functional_call(m, both, (x,)) for m in (ours, theirs)))


@pytest.mark.parametrize("kind", ALL)
def test_replicas_hold_plain_tensors(kind: str) -> None:
    # What DataParallel does on each device.
    ours, theirs = twins(kind, 3, 5)
    replica = ours._replicate_for_data_parallel()
    for name, p in ours.named_parameters():
        setattr(replica, name, p * 1)
    x = input_for(kind)
    assert_same(replica(x), theirs(x))
    loss(replica(x)).backward()
    loss(theirs(x)).backward()
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert_same(p.grad, q.grad)
    assert type(replica).__name__ == type(ours).__name__
    assert_same(nn.DataParallel(ours)(x), theirs(x))
