# SPDX-License-Identifier: MIT
"""torch.compile around what modules add to a layer: weights, casts, loops, packing."""

from typing import Any

import pytest
import torch
from cases import need
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.nn.utils.rnn import pack_padded_sequence
from twins import ALL, CELLS, LAYERS, assert_same, assert_same_training, tensors, twins


@pytest.fixture(autouse=True)
def fresh() -> None:
    """No graph from another test."""
    torch._dynamo.reset()


def compiled(module: nn.Module) -> tuple[Any, CompileCounterWithBackend]:
    """The module as one graph that is also differentiated, and a count of graphs."""
    counter = CompileCounterWithBackend("aot_eager")
    fast: Any = torch.compile(module, backend=counter, fullgraph=True)
    fast.named_parameters = module.named_parameters
    return fast, counter


def input_for(kind: str) -> Tensor:
    shape = (2, 3) if kind in CELLS else (4, 2, 3)
    return torch.randn(shape, dtype=torch.float64, requires_grad=True)


def state_for(kind: str) -> Any:
    shape = (2, 5) if kind in CELLS else (1, 2, 5)
    h = torch.randn(shape, dtype=torch.float64)
    return (h, h + 1) if kind.startswith("LSTM") else h


@pytest.mark.parametrize("kind", ALL)
def test_with_a_state(kind: str) -> None:
    module, theirs = twins(kind, 3, 5)
    fast, counter = compiled(module)
    assert_same_training(fast, theirs, input_for(kind), state_for(kind))
    assert counter.frame_count == 1


@pytest.mark.parametrize("kind", LAYERS)
def test_values_that_cannot_be_checked_are_clamped(kind: str) -> None:
    module, _ = twins(kind, 3, 5)
    x = input_for(kind)
    found = compiled(module)[0](x, lengths=torch.tensor([99, -7]))
    assert_same(found, module(x, lengths=[4, 0]))


@pytest.mark.parametrize("kind", LAYERS)
def test_packed_runs_between_graphs(kind: str) -> None:
    module, theirs = twins(kind, 3, 5)
    fast = torch.compile(module, backend="eager")
    x = pack_padded_sequence(input_for(kind), [4, 2])
    assert_same(fast(x), theirs(x))


@pytest.mark.parametrize("kind", ALL)
def test_autocast(kind: str) -> None:
    need("native")  # PyTorch's own operations are rewritten, to other bits.
    module = ALL[kind][0](3, 5)
    fast, _ = compiled(module)
    x = input_for(kind).float().detach()
    with torch.autocast("cpu", torch.bfloat16):
        found, expected = tensors(fast(x)), tensors(module(x))
    for mine, plain in zip(found, expected, strict=True):
        assert mine.dtype == torch.bfloat16 and torch.equal(mine, plain)


@pytest.mark.parametrize("kind", ALL)
def test_computed_weights(kind: str) -> None:
    module, _ = twins(kind, 3, 5)
    nn.utils.parametrizations.weight_norm(module, "weight_hh" if kind in CELLS else "weight_hh_l0")
    x = input_for(kind)
    assert_same(compiled(module)[0](x), module(x))


class Loop(nn.Module):
    """A decoder's loop over a cell."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.cell = ALL[kind][0](3, 5, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        hx, steps = None, []
        for row in x:
            hx = self.cell(row, hx)
            steps.append(hx[0] if isinstance(hx, tuple) else hx)
        return torch.stack(steps)


@pytest.mark.parametrize("kind", CELLS)
def test_loop_over_a_cell(kind: str) -> None:
    module = Loop(kind)
    fast, counter = compiled(module)
    x = torch.randn(3, 2, 3, dtype=torch.float64)
    assert_same(fast(x), module(x))
    assert counter.frame_count == 1


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("kind", ALL)
def test_export_with_a_state(kind: str, strict: bool, recwarn: pytest.WarningsRecorder) -> None:
    module, theirs = twins(kind, 3, 5)
    example = input_for(kind).detach(), state_for(kind)
    program = torch.export.export(module, example, strict=strict)
    # torch.nn's cache of weights makes an export warn.
    assert not [w for w in recwarn if "assigned during export" in str(w.message)]
    x, hx = input_for(kind).detach(), state_for(kind)
    assert_same(program.module()(x, hx), theirs(x, hx))
