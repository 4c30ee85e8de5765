# SPDX-License-Identifier: MIT
"""Infinities, NaN and very large numbers: what comes of them is what comes of them in torch.nn."""

import functools
from dataclasses import replace

import pytest
import torch
from cases import CELLS, DTYPES, INSTRUCTION_SETS, Case, Inputs, make, need, run
from special import (
    INFINITE,
    NAN,
    Row,
    assert_same_kinds,
    judge_rows,
    loose,
    rows_of_specials,
    with_special_weights,
    with_specials,
)
from torch import Tensor
from torch.utils._pytree import tree_leaves
from twins import twins

from fused_rnn.testing import assert_within_budget

on_every_set = pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS, indirect=True)
# The twin of AMX, which takes seconds for it, runs what AMX runs: rows are enough.
on_quick_sets = pytest.mark.parametrize(
    "instruction_set", [name for name in INSTRUCTION_SETS if name != "amx_twin"], indirect=True
)
# Sizes that no vector or tile divides, of more units than one holds.
EVERY = [Case(cell, 3, 3, 5, 21, "fp32") for cell in CELLS]
EVERY += [replace(EVERY[-1], projection=9)]


@pytest.fixture(autouse=True)
def available() -> None:
    need("native")


@functools.cache
def specials(case: Case, positive: bool) -> tuple[Case, Inputs, list[Row], dict[str, Tensor]]:
    """A batch with special rows, and what the reference makes of it."""
    rows = rows_of_specials(case)
    wide, inputs = with_specials(case, rows, positive)
    return wide, inputs, rows, run(wide, inputs, "reference")


@functools.cache
def single_rows(case: Case) -> list[tuple[Row, Case, Inputs, dict[str, Tensor]]]:
    """Batches with one special row, and what the reference makes of them."""
    found = [(row, *with_specials(case, [row])) for row in rows_of_specials(case)]
    return [(row, one, inputs, run(one, inputs, "reference")) for row, one, inputs in found]


@functools.cache
def special_weights(case: Case) -> list[tuple[str, Inputs, dict[str, Tensor]]]:
    """Layers with special weights, and what the reference makes of them."""
    return [
        (what, inputs, run(case, inputs, "reference"))
        for what, inputs in with_special_weights(case)
    ]


def by_rows(found: dict[str, Tensor]) -> dict[str, Tensor]:
    """The results that have rows of the batch, (., B, ...)."""
    return {name: tensor for name, tensor in found.items() if not name.startswith("dweights")}


@pytest.mark.parametrize("positive", [False, True])
@pytest.mark.parametrize("case", EVERY, ids=str)
def test_single_precision_is_like_double(case: Case, positive: bool) -> None:
    wide, inputs, rows, truth = specials(case, positive)
    judge_rows(case, rows, run(wide, inputs.to(torch.float64), "reference"), truth)


@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
def test_as_in_torch(kind: str) -> None:
    case = Case({"RNN": "rnn_tanh"}.get(kind, kind.lower()), 3, 3, 5, 21, "fp32")
    rows = rows_of_specials(case)
    _, inputs = with_specials(case, rows)
    found = []
    for module in twins(kind, case.inputs, case.hidden, dtype=torch.float32):
        leaves = [
            t.clone().requires_grad_() for t in (inputs.x, inputs.h0, inputs.c0) if t is not None
        ]
        x, h0, *c0 = leaves
        outputs = tree_leaves(module(x, (h0, *c0) if c0 else h0))
        cotangents = [inputs.cotangents[0].squeeze(2), *inputs.cotangents[1:]]
        grads = torch.autograd.grad(outputs, leaves, cotangents)
        found.append({str(i): tensor for i, tensor in enumerate([*outputs, *grads])})
    judge_rows(case, rows, *found)


@on_every_set
@pytest.mark.parametrize(("dtype", "positive"), [*((d, False) for d in DTYPES), ("fp32", True)])
@pytest.mark.parametrize("case", EVERY, ids=str)
def test_rows(instruction_set: str, case: Case, dtype: str, positive: bool) -> None:
    case = replace(case, dtype=dtype)
    wide, inputs, rows, truth = specials(case, positive)
    found = run(wide, inputs, "native")
    judge_rows(case, rows, found, truth)
    # What stands in one row has nothing to do with the others.
    _, plain = with_specials(case, [{}] * len(rows), positive)
    for name, tensor in by_rows(run(wide, plain, "native")).items():
        assert torch.equal(found[name][:, ::2], tensor[:, ::2]), name


@on_quick_sets
@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("case", EVERY, ids=str)
def test_gradients_of_weights(instruction_set: str, case: Case, steps: int) -> None:
    for row, one, inputs, truth in single_rows(replace(case, steps=steps)):
        for name, tensor in run(one, inputs, "native").items():
            assert_same_kinds(tensor, truth[name], f"{name} with {row}", loose(case, row))


@on_quick_sets
@pytest.mark.parametrize("case", EVERY, ids=str)
def test_weights(instruction_set: str, case: Case) -> None:
    for what, inputs, truth in special_weights(case):
        for name, tensor in run(case, inputs, "native").items():
            assert_same_kinds(tensor, truth[name], f"{name} with {what}")


@on_every_set
@pytest.mark.parametrize("gate", [-88.5, -200.0])
def test_a_gate_is_shut_no_earlier_and_no_later(instruction_set: str, gate: float) -> None:
    case = Case("lstm", 1, 3, 5, 21, "fp32")
    inputs = make(case)
    hidden = slice(case.hidden, 2 * case.hidden)
    for weight in inputs.weights:
        weight[hidden] = 0
    inputs.weights[2][hidden] = gate
    inputs.c0.fill_(3e38)
    truth, reference = (run(case, i, "reference") for i in (inputs.to(torch.float64), inputs))
    cn = run(case, inputs, "native")["cn"]
    assert_within_budget(cn, truth["cn"], reference["cn"], name="cn")


@on_every_set
@pytest.mark.parametrize("cell", CELLS)
def test_resets_keep_it_from_other_pieces(instruction_set: str, cell: str) -> None:
    case = Case(cell, 4, 3, 5, 21, "fp32", resets=True)
    inputs = make(case)
    inputs.resets.fill_(False)
    inputs.resets[2, 1] = True
    plain = by_rows(run(case, inputs, "native"))
    for value in (INFINITE, NAN):
        before = make(case)._replace(resets=inputs.resets)
        before.x[0, 1, 2] = before.h0[0, 1, 3] = value
        found = run(case, before, "native")
        assert not torch.equal(found["y"][:2], plain["y"][:2])
        for name in ("y", "dx"):
            assert torch.equal(found[name][2:], plain[name][2:])
        assert torch.equal(found["hn"], plain["hn"])
        behind = make(case)._replace(resets=inputs.resets)
        behind.cotangents[0][3, 1] = value
        found = run(case, behind, "native")
        assert not torch.equal(found["dx"][2:], plain["dx"][2:])
        assert torch.equal(found["dx"][:2], plain["dx"][:2])
        assert torch.equal(found["dh0"], plain["dh0"])


@on_every_set
@pytest.mark.parametrize("cell", CELLS)
def test_what_stands_past_the_end_is_not_read(instruction_set: str, cell: str) -> None:
    case = Case(cell, 4, 3, 5, 21, "fp32", lengths=True)
    inputs, past = (make(case)._replace(lengths=torch.tensor([4, 2, 0])) for _ in range(2))
    for value in (INFINITE, NAN):
        past.x[2:, 1] = past.x[:, 2] = value
        past.cotangents[0][2:, 1] = past.cotangents[0][:, 2] = value
        truth = run(case, inputs, "native")
        for name, tensor in run(case, past, "native").items():
            assert torch.equal(tensor, truth[name]), name
