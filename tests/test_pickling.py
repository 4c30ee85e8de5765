# SPDX-License-Identifier: MIT
"""Copies: pickle, deepcopy, torch.save, other processes, before and after a forward."""

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor
from twins import ALL, CELLS, assert_same, tensors, twins


def input_for(kind: str) -> Tensor:
    return torch.randn(*((2, 3) if kind in CELLS else (4, 2, 3)), dtype=torch.float64)


def through_torch_save(module: Any) -> Any:
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


WAYS = {
    "pickle": lambda module: pickle.loads(pickle.dumps(module)),
    "oldest pickle": lambda module: pickle.loads(pickle.dumps(module, protocol=2)),
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
    "torch.save": through_torch_save,
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ALL)
def test_round_trip(kind: str, way: str) -> None:
    options = {} if kind in CELLS else dict(num_layers=2, bidirectional=True)
    module = ALL[kind][0](3, 5, backend="reference", dtype=torch.float64, **options)
    x = input_for(kind)
    for _ in range(2):
        twin = WAYS[way](module)
        assert type(twin) is type(module)
        assert repr(twin) == repr(module)
        assert twin.backend == "reference"
        assert list(twin.state_dict()) == list(module.state_dict())
        assert_same(twin(x), module(x))
        sum(t.sum() for t in tensors(module(x))).backward()


@pytest.mark.parametrize("kind", ALL)
def test_state_is_torchs_own_and_no_more(kind: str) -> None:
    ours, theirs = twins(kind, 3, 5)
    ours(input_for(kind))
    caches = {"_flat_weights", "_flat_weight_refs"}
    assert set(ours.__dict__) - set(ours._own_attributes) == set(theirs.__dict__) - caches


@pytest.mark.parametrize("kind", ALL)
def test_deepcopy_owns_its_weights(kind: str) -> None:
    module, _ = twins(kind, 3, 5)
    x = input_for(kind)
    before = module(x)
    twin = copy.deepcopy(module)
    with torch.no_grad():
        for p in twin.parameters():
            p.zero_()
    assert_same(module(x), before)
    assert not tensors(twin(x))[0].any()


@pytest.mark.parametrize("kind", ALL)
def test_plain_tensor_weights_are_copied_by_value(kind: str) -> None:
    module, _ = twins(kind, 3, 5)
    name = "weight_hh" if kind in CELLS else "weight_hh_l0"
    raw = getattr(module, name)
    delattr(module, name)
    setattr(module, name, raw * 0.5)
    x = input_for(kind)
    assert_same(copy.deepcopy(module)(x), module(x))


def _in_a_process(module: Any, x: Tensor, queue: Any) -> None:
    with torch.no_grad():
        queue.put([t.clone().numpy() for t in tensors(module(x))])
        next(module.parameters()).zero_()


def test_shared_with_another_process() -> None:
    context = torch.multiprocessing.get_context("spawn")
    module, _ = twins("GRU", 3, 5)
    module.share_memory()
    x = input_for("GRU")
    expected = tensors(module(x))
    queue = context.Queue()
    process = context.Process(target=_in_a_process, args=(module, x, queue))
    process.start()
    found = [torch.from_numpy(array) for array in queue.get(timeout=60)]
    process.join()
    assert_same(found, [t.detach() for t in expected])
    assert not module.weight_ih_l0.any()
