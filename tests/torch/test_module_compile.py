# SPDX-License-Identifier: MIT
"""torch.compile around what modules add to a layer: weights, casts, loops, packing."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.export import Dim
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence
from twins import ALL, CELLS, LAYERS, assert_same, assert_same_training, state, tensors, twins


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


def packed(*lengths: int) -> PackedSequence:
    x = torch.randn(max(lengths), len(lengths), 3, dtype=torch.float64)
    in_order = list(lengths) == sorted(lengths, reverse=True)
    return pack_padded_sequence(x, lengths, enforce_sorted=in_order)


class Packs(nn.Module):
    """A layer over packed input that is put together inside, and the output taken apart."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, data: Tensor, *rest: Tensor | None, hx: Any = None) -> tuple[Any, ...]:
        y, state = self.layer(PackedSequence(data, *rest), hx)
        return y.data, state


@pytest.mark.parametrize(
    ("kind", "options", "with_state"),
    [
        ("RNN", dict(bias=False), False),
        ("GRU", dict(num_layers=2), True),
        ("LSTM", dict(bidirectional=True), False),
        ("LSTM", dict(proj_size=2), False),
    ],
    ids=str,
)
def test_packed_in_one_graph(kind: str, options: dict[str, Any], with_state: bool) -> None:
    ours, theirs = (Packs(module) for module in twins(kind, 3, 5, **options))
    fast, counter = compiled(ours)
    for lengths in ((4, 2, 1), (6, 5, 5, 3, 2), (5, 5), (2, 7, 7, 1)):
        hx = state(kind, ours.layer.num_layers, len(lengths), 5) if with_state else None
        data, *rest = packed(*lengths)
        assert_same_training(fast, theirs, data.requires_grad_(), *rest, hx=hx)
    # One for the first sizes, one for all, and the same again for rows out of order.
    assert counter.frame_count <= 4


@pytest.mark.parametrize("lengths", [(4, 2, 1), (1, 4, 2)], ids=["sorted", "unsorted"])
@pytest.mark.parametrize("kind", LAYERS)
def test_packed_input_from_outside(kind: str, lengths: tuple[int, ...]) -> None:
    module, theirs = twins(kind, 3, 5)
    x = packed(*lengths)
    assert_same(compiled(module)[0](x), theirs(x))


LONG = pytest.mark.long
BAD_SIZES = {
    "too few": ([3, 2, 1], "packed data: expected the sum of batch_sizes as rows"),
    "too many": ([3, 2, 1, 1, 1], "packed data: expected the sum of batch_sizes as rows"),
    "growing": ([1, 2, 3, 1], "batch_sizes: expected counts that never grow"),
    "negative": ([4, 3, 1, -1], "batch_sizes: expected counts that never grow"),
}


@pytest.mark.parametrize("compiler", ["aot_eager", pytest.param("inductor", marks=LONG)])
def test_a_graph_refuses_sizes_that_do_not_fit(compiler: str) -> None:
    module = Packs(twins("GRU", 3, 5)[0])
    fast = torch.compile(module, backend=compiler, fullgraph=True, dynamic=True)
    data, sizes, *_ = packed(4, 2, 1)
    assert_same(fast(data, sizes), module(data, sizes))
    for wrong, message in BAD_SIZES.values():
        with pytest.raises(RuntimeError, match=message):
            fast(data, torch.tensor(wrong))


@pytest.mark.parametrize("strict", [False, True])
def test_export_of_packed_input(strict: bool) -> None:
    module = Packs(twins("LSTM", 3, 5)[0])
    data, sizes, *_ = packed(4, 2, 1)
    axes = ({0: Dim("rows", min=2)}, ({0: Dim("steps", min=2)},))
    program = torch.export.export(module, (data, sizes), dynamic_shapes=axes, strict=strict)
    for lengths in ((4, 2, 1), (6, 5, 5, 2, 1)):
        data, sizes, *_ = packed(*lengths)
        assert_same(program.module()(data, sizes), module(data, sizes))


@pytest.mark.parametrize("kind", ALL)
def test_autocast(kind: str) -> None:
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
