# SPDX-License-Identifier: MIT
"""The registrations of both ops: schema, fakes, autograd, and tracing with dynamic shapes."""

import pytest
import torch
from cases import CELLS, Case, Inputs, make, need
from torch import Tensor

from fused_rnn._call.compact_rows import CompactRows
from fused_rnn.ops import COMPILED, PAIRS, RECOMPUTED, cells_backward, copy

UTILITIES = (
    "test_schema",
    "test_autograd_registration",
    "test_faketensor",
    "test_aot_dispatch_dynamic",
)
CASES = [
    case
    for cell in CELLS
    for case in (
        Case(cell, 4, 3, 2, 5, reverse=(0, 1), resets=True),
        Case(cell, 4, 3, 2, 5, dtype="bf16", bias=False, states=False),
    )
] + [Case("lstm", 4, 3, 2, 5, dtype="fp32", projection=3)]
# One kernel serves all cells where PyTorch's operations do the work.
RUNS = [(backend, case) for backend in COMPILED for case in CASES]
RUNS += [(backend, case) for backend in RECOMPUTED for case in CASES if case.cell == "lstm"]
each_run = pytest.mark.parametrize(("backend", "case"), RUNS, ids=str)


def forward_arguments(case: Case, inputs: Inputs, learning: bool) -> tuple[object, ...]:
    def ready(t: Tensor | None) -> Tensor | None:
        return None if t is None else t.detach().clone().requires_grad_(learning)

    weights = [ready(w) for w in inputs.weights]
    # Full lengths: what a tape holds past a row's end is nobody's business, and is compared here.
    lengths = torch.full((case.batch,), case.steps)
    return (
        *(ready(inputs.x), ready(inputs.h0), ready(inputs.c0), weights, lengths, inputs.resets),
        *(case.cell, list(case.reverse)),
    )


@pytest.mark.parametrize("learning", [True, False], ids=["train", "infer"])
@each_run
def test_forward(backend: str, case: Case, learning: bool) -> None:
    need(backend, case)
    arguments = forward_arguments(case, make(case), learning)
    torch.library.opcheck(PAIRS[backend].forward, (*arguments, learning), test_utils=UTILITIES)


@pytest.mark.parametrize("cell", CELLS)
def test_packed_rows(cell: str) -> None:
    need("native")
    case = Case(cell, 4, 3, 2, 5, reverse=(0, 1))
    inputs = make(case)
    rows_of = CompactRows.of(torch.tensor([4, 3, 1]))
    rows = inputs._replace(x=rows_of.compact(inputs.x))
    x, h0, c0, weights, _, resets, *rest = forward_arguments(case, rows, False)
    arguments = (x, h0, c0, weights, rows_of.lengths, resets, *rest)
    pair = PAIRS["native"]
    torch.library.opcheck(pair.forward, (*arguments, True), test_utils=UTILITIES)
    y, _, _, tape, _ = pair.forward(*arguments, True)
    cotangents = (rows_of.compact(inputs.cotangents[0]), *inputs.cotangents[1:], None)[:3]
    torch.library.opcheck(
        pair.backward,
        (*cotangents, *arguments[:6], y, tape, *rest, True, True, True),
        test_utils=UTILITIES,
    )


@pytest.mark.parametrize("tensor", [torch.tensor([3, 1]), torch.ones(2, 3).t() > 0], ids=str)
def test_copy(tensor: Tensor) -> None:
    torch.library.opcheck(copy, (tensor,), test_utils=UTILITIES)


@pytest.mark.parametrize("needs", [(True, True, True), (True, False, False)], ids=["all", "dx"])
@each_run
def test_backward(backend: str, case: Case, needs: tuple[bool, ...]) -> None:
    need(backend, case)
    inputs = make(case)
    arguments = forward_arguments(case, inputs, False)
    y, _, _, tape, _ = PAIRS[backend].forward(*arguments, True)
    cotangents = (*inputs.cotangents, None)[:3]
    torch.library.opcheck(
        PAIRS[backend].backward,
        (*cotangents, *arguments[:6], y, tape, *arguments[6:], *needs),
        test_utils=UTILITIES,
    )


def test_backward_of_every_cell() -> None:
    need("native")
    case = Case("lstm", 4, 3, 2, 5, dtype="bf16", reverse=(0, 1))
    arguments = forward_arguments(case, make(case), False)
    y, _, _, tape, _ = PAIRS["native"].forward(*arguments, True)
    for dcells in (None, torch.randn(4, 3, 2, 5)):
        given = (dcells, y, None, None, *arguments[:6], y, tape, *arguments[6:], *[True] * 3)
        torch.library.opcheck(cells_backward, given, test_utils=UTILITIES)


@pytest.mark.parametrize("instruction_set", ["amx", "amx_twin"], indirect=True)
@pytest.mark.parametrize("products", [3, 1])
def test_fewer_products(instruction_set: str, products: int) -> None:
    need("native")
    case = Case("gru", 4, 3, 2, 5, dtype="fp32", reverse=(0, 1))
    inputs, pair = make(case), PAIRS["native"]
    for learning in (True, False):
        arguments = (*forward_arguments(case, inputs, learning), learning, products)
        torch.library.opcheck(pair.forward, arguments, test_utils=UTILITIES)
    *arguments, _, _ = arguments
    y, _, _, tape, _ = pair.forward(*arguments, True, products)
    torch.library.opcheck(
        pair.backward,
        (*inputs.cotangents, None, *arguments[:6], y, tape, *arguments[6:], *[True] * 3, products),
        test_utils=UTILITIES,
    )
