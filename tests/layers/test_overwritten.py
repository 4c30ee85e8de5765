# SPDX-License-Identifier: MIT
"""Lengths and resets in buffers that are filled anew between a forward pass and its backward."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from cases import need
from torch import Tensor, nn
from torch.func import vjp
from torch.nn.utils.rnn import PackedSequence
from twins import LAYERS, assert_same, state, tensors

import fused_rnn
from fused_rnn import functional
from fused_rnn._call import stack
from fused_rnn._call.arguments import Arguments

BACKENDS = ("native", "torch", "reference")


def buffers() -> dict[str, np.ndarray]:
    """What a program fills anew, by the name of an argument."""
    marks = np.zeros((4, 3), dtype=bool)
    marks[2, 0] = marks[1, 2] = True
    return {"lengths": np.array([4, 2, 3]), "resets": marks}


def by_numpy(arrays: dict[str, np.ndarray], views: dict[str, Tensor]) -> None:
    for array in arrays.values():
        array[:] = 1


def by_torch(arrays: dict[str, np.ndarray], views: dict[str, Tensor]) -> None:
    for view in views.values():
        view.fill_(1)


def gradients(
    call: Callable[..., Any], leaves: list[Tensor], write: Callable[..., None] | None, *names: str
) -> list[Tensor]:
    """Of all results of a call over those of `buffers` named, which are then written to."""
    arrays = {name: array for name, array in buffers().items() if name in names}
    views = {name: torch.from_numpy(array) for name, array in arrays.items()}
    outputs = tensors(call(**views))
    if write is not None:
        write(arrays, views)
    return list(torch.autograd.grad(sum(output.sin().sum() for output in outputs), leaves))


@pytest.mark.parametrize("write", [by_numpy, by_torch])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", LAYERS)
def test_layers(kind: str, backend: str, write: Callable[..., None]) -> None:
    need(backend)
    module = LAYERS[kind][0](3, 5, 2, bidirectional=True, dtype=torch.float64)
    names = ["lengths"] if backend == "torch" else ["lengths", "resets"]
    x = torch.randn(4, 3, 3, dtype=torch.float64, requires_grad=True)
    leaves = [x, *module.parameters()]

    def run(**views: Tensor) -> Any:
        with fused_rnn.use_backend(backend):
            return module(x, **views)

    assert_same(gradients(run, leaves, write, *names), gradients(run, leaves, None, *names))


@pytest.mark.parametrize("write", [by_numpy, by_torch])
def test_functions(write: Callable[..., None]) -> None:
    weights = list(nn.GRU(3, 5, dtype=torch.float64).parameters())
    x = torch.randn(4, 3, 3, dtype=torch.float64)

    def run(**views: Tensor) -> Any:
        return functional.gru(x, None, weights, **views)

    both = ("lengths", "resets")
    assert_same(gradients(run, weights, write, *both), gradients(run, weights, None, *both))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", LAYERS)
def test_packed_input(kind: str, backend: str) -> None:
    need(backend)
    module = LAYERS[kind][0](3, 5, 2, bidirectional=True, dtype=torch.float64)
    data, hx = torch.randn(9, 3, dtype=torch.float64), state(kind, 4, 3, 5)
    results = []
    for write in (False, True):
        arrays = np.array([3, 3, 2, 1]), np.arange(9) % 4 == 3
        sizes, marks = (torch.from_numpy(array) for array in arrays)
        resets = None if backend == "torch" else marks
        with fused_rnn.use_backend(backend):
            y, _ = module(PackedSequence(data, sizes), hx, resets=resets)
        if write:
            for array in arrays:
                array[:] = 1
        results.append(torch.autograd.grad(y.data.sin().sum(), list(module.parameters())))
    assert_same(*results)


@pytest.mark.parametrize("write", [by_numpy, by_torch])
@pytest.mark.parametrize("compiler", ["aot_eager", "inductor"])
def test_compiled(compiler: str, write: Callable[..., None]) -> None:
    torch._dynamo.reset()
    module = fused_rnn.FusedLSTM(3, 5, 2, dtype=torch.float64)
    compiled: Any = torch.compile(module, backend=compiler, fullgraph=True)
    x, weights = torch.randn(4, 3, 3, dtype=torch.float64), list(module.parameters())
    both = ("lengths", "resets")
    found = gradients(lambda **views: compiled(x, **views), weights, write, *both)
    assert_same(found, gradients(lambda **views: module(x, **views), weights, None, *both))


def test_under_a_transform() -> None:
    module = fused_rnn.FusedLSTM(3, 5, dtype=torch.float64).requires_grad_(False)
    x = torch.randn(4, 3, 3, dtype=torch.float64)
    results = []
    for write in (False, True):
        array = np.array([4, 2, 3])
        y, pull = vjp(lambda x, array=array: module(x, lengths=torch.from_numpy(array))[0], x)
        if write:
            array[:] = 1
        results.append(pull(y))
    assert_same(*results)


@pytest.mark.parametrize("kind", LAYERS)
def test_without_gradients_nothing_is_copied(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    need("native")
    module = LAYERS[kind][0](3, 5)
    seen, run = [], stack.run_layer

    def seeing(given: Arguments, *args: Any, **options: Any) -> Any:
        seen.extend([given.lengths, given.resets])
        return run(given, *args, **options)

    monkeypatch.setattr(stack, "run_layer", seeing)
    given = {name: torch.from_numpy(array) for name, array in buffers().items()}
    with torch.no_grad():
        module(torch.randn(4, 3, 3), **given)
    assert [t.data_ptr() for t in seen] == [t.data_ptr() for t in given.values()]
