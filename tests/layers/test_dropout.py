# SPDX-License-Identifier: MIT
"""Dropout between layers: torch.nn's places and torch.nn's random numbers, and it stays on."""

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence
from twins import LAYERS, assert_same, tensors, twins

from fused_rnn import use_backend


def both(ours: nn.Module, theirs: nn.Module, x: object) -> tuple[object, object]:
    """Results of both from one seed, after which both have drawn as many numbers."""
    results, following = [], []
    for module in (ours, theirs):
        torch.manual_seed(3)
        results.append(module(x))
        following.append(torch.rand(2))
    assert torch.equal(*following)
    return results[0], results[1]


@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
def test_same_numbers_as_torch(kind: str, p: float, bidirectional: bool, batch_first: bool) -> None:
    ours, theirs = twins(
        kind, 3, 5, 3, dropout=p, bidirectional=bidirectional, batch_first=batch_first
    )
    x = torch.randn(4, 4, 3, dtype=torch.float64)
    inputs = [x, x[0], pack_padded_sequence(x, [4, 2, 1, 3], enforce_sorted=False)]
    inputs += [pack_padded_sequence(x, [4, 4, 4, 4])]
    for each in inputs:
        assert_same(*both(ours, theirs, each))
    ours.eval()
    theirs.eval()
    for each in inputs:
        assert_same(*both(ours, theirs, each))


@pytest.mark.parametrize("backend", ["torch", "reference"])
@pytest.mark.parametrize("kind", LAYERS)
def test_packed_input_that_is_padded(kind: str, backend: str) -> None:
    # These backends take a grid; the random numbers are those of packed rows nevertheless.
    ours, theirs = twins(kind, 3, 5, 3, dropout=0.3, bidirectional=True)
    x = torch.randn(4, 4, 3, dtype=torch.float64)
    with use_backend(backend):
        assert_same(*both(ours, theirs, pack_padded_sequence(x, [4, 3, 2, 1])))


@pytest.mark.parametrize("kind", LAYERS)
def test_gradients(kind: str) -> None:
    ours, theirs = twins(kind, 3, 5, 2, dropout=0.5)
    for x in (
        torch.randn(4, 2, 3, dtype=torch.float64),
        pack_padded_sequence(torch.randn(4, 2, 3, dtype=torch.float64), [4, 2]),
    ):
        results = both(ours, theirs, x)
        for module, result in zip((ours, theirs), results, strict=True):
            module.zero_grad()
            sum(t.sum() for t in tensors(result) if t.requires_grad).backward()
        for (name, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
            assert_same(p.grad, q.grad, name)


@pytest.mark.parametrize("kind", LAYERS)
def test_everything_dropped(kind: str) -> None:
    ours, _ = twins(kind, 3, 5, 2, dropout=1.0)
    x = torch.randn(4, 2, 3, dtype=torch.float64)
    y, states = ours(x)
    single, _ = twins(kind, 5, 5)
    single.load_state_dict(
        {name.replace("l1", "l0"): p for name, p in ours.state_dict().items() if "l1" in name}
    )
    assert_same(y, single(torch.zeros(4, 2, 5, dtype=torch.float64))[0])
    # What the lower layer hands on is dropped; its own final state is not.
    assert tensors(states)[0][0].any()
