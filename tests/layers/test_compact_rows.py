# SPDX-License-Identifier: MIT
"""Compact rows as the kernels take them: the padded form's bits, derivatives, and checks."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from cases import CELLS, DTYPES, Case, Inputs, ids, make, need, options, run, run_layer
from torch import Tensor
from torch.nn.utils.rnn import pack_sequence
from twins import state, tensors

import fused_rnn
from fused_rnn import ops
from fused_rnn._call import dispatch, stack
from fused_rnn._call.arguments import Arguments
from fused_rnn._call.compact_rows import CompactRows
from fused_rnn.backends.aten import aten_layers
from fused_rnn.backends.choice import BACKENDS
from fused_rnn.testing import assert_within_budget


@pytest.fixture(autouse=True)
def native() -> None:
    need("native")


def ragged(case: Case) -> Inputs:
    """Inputs of a case whose rows grow shorter and all have a step."""
    inputs = make(case)
    draw = torch.Generator().manual_seed(1)
    lengths = torch.randint(1, case.steps + 1, (case.batch,), generator=draw)
    lengths[0] = case.steps
    return inputs._replace(lengths=lengths.sort(descending=True).values)


def compacted(inputs: Inputs) -> tuple[Inputs, CompactRows]:
    """The same, their steps packed row by row."""
    places = CompactRows.of(inputs.lengths)
    y, *states = inputs.cotangents
    resets = None if inputs.resets is None else places.compact(inputs.resets)
    inputs = inputs._replace(x=places.compact(inputs.x), resets=resets)
    return inputs._replace(cotangents=(places.compact(y), *states)), places


CASES = [
    case
    for cell in CELLS
    for dtype in ("fp64", "fp32", "bf16")
    for case in (*options(cell, dtype), replace(options(cell, dtype)[0], batch=70, steps=40))
]


@pytest.mark.parametrize("case", CASES, ids=ids)
def test_same_bits_as_padded(case: Case) -> None:
    inputs = ragged(case)
    rows, places = compacted(inputs)
    found = run(case, rows, "native")
    for name, expected in run(case, inputs, "native").items():
        expected = places.compact(expected) if name in ("y", "dx") else expected
        assert torch.equal(found[name], expected), name


@pytest.mark.parametrize("cell", CELLS)
def test_same_bits_on_prepacked_weights(cell: str) -> None:
    case = Case(cell, dtype="fp32", batch=7, reverse=(0, 1), resets=True)
    inputs = ragged(case)
    x, h0, c0, weights, lengths, resets = inputs[:6]
    rows, places = compacted(inputs)
    pack = ops.prepack(weights, cell, case.reverse)
    y, *states = ops.prepacked_forward(x, h0, c0, pack, lengths, resets)
    found, *last = ops.prepacked_forward(rows.x, h0, c0, pack, lengths, rows.resets)
    assert torch.equal(found, places.compact(y))
    for ours, expected in zip(last, states, strict=True):
        assert (ours is None and expected is None) or torch.equal(ours, expected)


def function(case: Case) -> tuple[Callable[..., tuple[Tensor, ...]], tuple[Any, ...]]:
    """The layer over packed rows as a function of all that may have a gradient."""
    inputs, _ = compacted(ragged(case))
    tensors = (inputs.x, inputs.h0, inputs.c0, *inputs.weights)

    def outputs(x: Tensor, h0: Tensor, c0: Tensor | None, *weights: Tensor) -> tuple[Tensor, ...]:
        found = run_layer(
            *(x, h0, c0, weights, inputs.lengths, inputs.resets),
            cell=case.cell,
            reverse=case.reverse,
            backend="native",
        )
        return tuple(tensor for tensor in found if tensor is not None)

    return outputs, tuple(None if t is None else t.requires_grad_() for t in tensors)


SMALL = [Case(cell, 3, 3, 2, 2, reverse=(0, 1), resets=True) for cell in CELLS]


@pytest.mark.parametrize("case", SMALL, ids=ids)
def test_derivatives(case: Case) -> None:
    torch.autograd.gradcheck(*function(case), check_forward_ad=True, check_batched_grad=True)
    torch.autograd.gradgradcheck(*function(case), check_rev_over_rev=True, fast_mode=True)


def test_a_mapped_backward_pass() -> None:
    outputs, tensors = function(SMALL[2])
    y, *_ = outputs(*tensors)
    cotangents = torch.randn(4, *y.shape, dtype=y.dtype)

    def dx(cotangent: Tensor) -> Tensor:
        return torch.autograd.grad(y, tensors[0], cotangent, retain_graph=True)[0]

    assert torch.equal(torch.func.vmap(dx)(cotangents), torch.stack([dx(c) for c in cotangents]))


def test_transforms_of_packed_rows() -> None:
    outputs, tensors = function(SMALL[2])

    def first(x: Tensor) -> Tensor:
        return outputs(x, *tensors[1:])[0]

    x = tensors[0].detach()
    truth = torch.autograd.functional.jacobian(first, x)
    for jacobian in (torch.func.jacfwd, torch.func.jacrev):
        assert_within_budget(jacobian(first)(x), truth, name=jacobian.__name__)
    many = torch.stack([x, 2 * x])
    mapped, alone = torch.func.vmap(first)(many), torch.stack([first(x), first(2 * x)])
    assert torch.equal(mapped, alone)


@pytest.mark.parametrize("backend", ["native", "reference", "torch"])
@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
def test_who_takes_rows_as_they_are(
    kind: str, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    axes = []

    # PyTorch runs all layers in one call.
    if backend == "torch":
        own = BACKENDS["torch"]

        def stacked(x: Tensor, *args: Any, **options: Any) -> Any:
            axes.append(x.dim())
            return aten_layers(x, *args, **options)

        monkeypatch.setitem(BACKENDS, "torch", own._replace(run_stack=stacked))
    else:

        def one(given: Arguments, *args: Any, **options: Any) -> Any:
            axes.append(given.x.dim())
            return dispatch.run_layer(given, *args, **options)

        monkeypatch.setattr(stack, "run_layer", one)
    layer = getattr(fused_rnn, f"Fused{kind}")(3, 5, 2, bidirectional=True, backend=backend)
    layer(pack_sequence([torch.randn(length, 3) for length in (9, 4, 1)]))
    assert axes == {"native": [2, 2], "reference": [3, 3], "torch": [3]}[backend]


@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
def test_modules_on_prepacked_weights(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    axes = []

    def forward(x: Tensor, *args: Any) -> Any:
        axes.append(x.dim())
        return ops.prepacked_forward(x, *args)

    monkeypatch.setattr("fused_rnn.nn.fused_layer.prepacked_forward", forward)
    layer = getattr(fused_rnn, f"Fused{kind}")(3, 5, 2, bidirectional=True)
    rows = [torch.randn(length, 3) for length in (3, 9, 9, 1)]
    x, hx = pack_sequence(rows, enforce_sorted=False), state(kind, 4, 4, 5, dtype=torch.float32)
    with torch.inference_mode():
        y, states = layer(x, hx)
        with fused_rnn.prepacked(layer):
            found, last = layer(x, hx)
    assert axes == [2, 2]
    pairs = zip((found.data, *tensors(last)), (y.data, *tensors(states)), strict=True)
    assert all(torch.equal(ours, expected) for ours, expected in pairs)


BAD = {
    "no lengths": ((6, 2), None, "x: expected 3 dimensions, or 2 of packed rows with lengths"),
    "growing": ((6, 2), [1, 2, 3], "lengths: expected falling ones"),
    "an empty row": ((6, 2), [3, 3, 0], "lengths: expected falling ones, the last at least 1"),
    "too many steps": ((6, 2), [1 << 40, 1, 1], "lengths: expected at most 6 steps"),
    "rows": ((5, 2), [3, 2, 1], r"x: expected shape \(6, 2\), got \(5, 2\)"),
    "axes of lengths": ((6, 2), [[3, 2, 1]], "lengths: expected 1 dimension, got 2"),
}


@pytest.mark.parametrize("fault", BAD)
def test_ops_refuse(fault: str) -> None:
    shape, given, message = BAD[fault]
    case = Case("gru", 3, 3, 2, 5, dtype="fp32", states=False)
    lengths = None if given is None else torch.tensor(given)
    weights = make(case).weights
    x = torch.randn(shape, dtype=DTYPES[case.dtype])
    pack = ops.prepack(weights, case.cell, case.reverse)
    for call in (
        lambda: ops.PAIRS["native"].forward(
            x, None, None, weights, lengths, None, case.cell, case.reverse, False
        ),
        lambda: ops.prepacked_forward(x, None, None, pack, lengths, None),
    ):
        with pytest.raises(RuntimeError, match=message):
            call()
