# SPDX-License-Identifier: MIT
"""Arguments that are no tensors, but have `__torch_function__`: they are asked as by torch.nn."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence
from torch.utils._pytree import tree_map_only
from twins import ALL, CELLS, DOUBLE, LAYERS, assert_same, outcome, state, tensors, twins

import fused_rnn


class Quantity:
    """A tensor with a unit: an object of its own, of which functions are asked."""

    asked: list[Any] = []

    def __init__(self, value: Tensor) -> None:
        self.value = value

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.value, name)
        if not callable(found):
            return found
        return lambda *args, **options: quantities(found(*args, **options))

    @classmethod
    def __torch_function__(
        cls, function: Any, types: Any, args: Any = (), options: Any = None
    ) -> Any:
        cls.asked.append(function)
        args, options = values((args, options or {}))
        return quantities(function(*args, **options))


def quantities(found: Any) -> Any:
    return tree_map_only(Tensor, Quantity, found)


def values(found: Any) -> Any:
    return tree_map_only(Quantity, lambda one: one.value, found)


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    yield
    Quantity.asked.clear()


def asked(module: Any, *args: Any) -> tuple[Any, list[Any]]:
    """The result, and the functions of a recurrence that were asked for."""
    Quantity.asked.clear()
    found = module(*args)
    kinds = ("rnn", "gru", "lstm")
    return found, [f for f in Quantity.asked if f.__name__.startswith(kinds)]


def inputs(kind: str) -> dict[str, tuple[Any, ...]]:
    one = (2,) if kind in CELLS else (4, 2)
    x = torch.randn(*one, 3, dtype=DOUBLE)
    hx = state(kind, *([] if kind in CELLS else [2]), 2, 5)
    alone = tree_map_only(Tensor, lambda t: t.select(-2, 0), (x, hx))
    return {
        "x": (Quantity(x),),
        "both": (Quantity(x), quantities(hx)),
        "hx": (x, quantities(hx)),
        "unbatched": quantities(alone),
    }


@pytest.mark.parametrize("name", ["x", "both", "hx", "unbatched"])
@pytest.mark.parametrize("kind", ALL)
def test_it_is_asked_what_torch_asks(kind: str, name: str) -> None:
    keywords = {"num_layers": 2, "dropout": 0.5} if kind in LAYERS else {}
    modules = [module.eval() for module in twins(kind, 3, 5, **keywords)]
    args = inputs(kind)[name]
    (ours, functions), (theirs, expected) = (asked(module, *args) for module in modules)
    assert functions == expected and len(expected) == 1
    assert_same(values(ours), values(theirs))
    assert all(isinstance(leaf, Quantity) for leaf in leaves(ours))


def leaves(found: Any) -> list[Any]:
    return [found] if not isinstance(found, tuple) else [leaf for f in found for leaf in leaves(f)]


@pytest.mark.parametrize("kind", LAYERS)
def test_batch_first_and_both_directions(kind: str) -> None:
    ours, theirs = twins(kind, 3, 5, batch_first=True, bidirectional=True, bias=False)
    x = Quantity(torch.randn(2, 4, 3, dtype=DOUBLE))
    (found, functions), (expected, others) = asked(ours, x), asked(theirs, x)
    assert functions == others
    assert_same(values(found), values(expected))


@pytest.mark.parametrize("kind", LAYERS)
def test_packed(kind: str) -> None:
    ours, theirs = twins(kind, 3, 5)
    packed = pack_padded_sequence(torch.randn(4, 2, 3, dtype=DOUBLE), [4, 2])
    x = PackedSequence(Quantity(packed.data), packed.batch_sizes)
    found, expected = asked(ours, x), asked(theirs, x)
    assert found[1] == expected[1]
    assert_same(values(found[0][0].data), values(expected[0][0].data))
    assert_same(values(found[0][1]), values(expected[0][1]))


@pytest.mark.parametrize("kind", ALL)
def test_errors_are_those_of_torch(kind: str) -> None:
    ours, theirs = twins(kind, 3, 5)
    shape = (2,) if kind in CELLS else (4, 2)
    for x in (torch.randn(*shape, 4, dtype=DOUBLE), torch.randn(*shape, 1, 1, 3, dtype=DOUBLE)):
        found = outcome(lambda x=x: ours(Quantity(x)))
        assert found is not None and found == outcome(lambda x=x: theirs(Quantity(x)))


CALLS: dict[str, Callable[[Any], Any]] = {
    "lengths": lambda x: fused_rnn.FusedGRU(3, 5, dtype=DOUBLE)(x, lengths=[4, 2]),
    "resets": lambda x: fused_rnn.FusedLSTM(3, 5, dtype=DOUBLE)(
        x, resets=torch.zeros(4, 2, dtype=torch.bool)
    ),
    "reset_after": lambda x: fused_rnn.FusedGRU(3, 5, reset_after=False, dtype=DOUBLE)(x),
}


@pytest.mark.parametrize("name", CALLS)
def test_what_torch_has_no_function_for(name: str) -> None:
    with pytest.raises(TypeError, match=rf"{name}.*: expected .* got Quantity"):
        CALLS[name](Quantity(torch.randn(4, 2, 3, dtype=DOUBLE)))


class Named(Tensor):
    """A subclass as users write it, with no function of its own."""


@pytest.mark.parametrize("learning", [False, True])
@pytest.mark.parametrize("kind", ALL)
def test_subclasses_of_tensor_come_back(kind: str, learning: bool) -> None:
    ours, theirs = twins(kind, 3, 5)
    shape = (2, 3) if kind in CELLS else (4, 2, 3)
    x = torch.randn(shape, dtype=DOUBLE).as_subclass(Named)
    with torch.set_grad_enabled(learning):
        found, expected = tensors(ours(x)), tensors(theirs(x))
    for mine, other in zip(found, expected, strict=True):
        assert type(mine) is type(other)
        assert_same(mine.as_subclass(Tensor), other.as_subclass(Tensor))


@pytest.mark.parametrize("kind", ALL)
def test_a_mode_is_no_argument(kind: str) -> None:
    """torch.set_default_device sets one, in which every tensor seems to have a function."""
    module, _ = twins(kind, 3, 5)
    x = torch.randn((2, 3) if kind in CELLS else (4, 2, 3), dtype=DOUBLE)
    with torch.device("cpu"):
        found = module(x)
    assert_same(found, module(x))
