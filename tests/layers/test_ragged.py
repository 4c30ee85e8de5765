# SPDX-License-Identifier: MIT
"""What `lengths` and `resets` mean: rows alone and pieces alone, put together again."""

import pytest
import torch
from cases import CELLS, Case, Inputs, judge, make, need, run
from torch import Tensor

from fused_rnn import FusedGRU, FusedLSTM, FusedRNN
from fused_rnn.backends.reference import reference_layer
from fused_rnn.testing import assert_within_budget

BACKENDS = ("reference", "native")


def pieces(marks: Tensor, length: int) -> list[tuple[int, int]]:
    """The pieces, (start, end), of a row's first `length` steps."""
    cuts = [0, *(t for t in range(1, length) if marks[t]), length]
    return list(zip(cuts[:-1], cuts[1:], strict=True)) if length else []


def row_alone(
    case: Case, weights: list[Tensor], x: Tensor, state: list[Tensor], marks: Tensor, length: int
) -> tuple[Tensor, list[Tensor]]:
    """One row of one recurrence, its pieces run separately: y (T, P) and the final state."""
    back = case.reverse[0]
    parts, y = pieces(marks, length), [torch.zeros(x.shape[0] - length, case.output).to(x)]
    if parts and not back and marks[0]:
        state = [torch.zeros_like(s) for s in state]
    for number, (start, end) in enumerate(reversed(parts) if back else parts):
        if number:
            state = [torch.zeros_like(s) for s in state]
        rows = [s.reshape(1, 1, -1) for s in state]
        found = reference_layer(
            *(x[start:end].unsqueeze(1), rows[0], rows[1] if len(rows) == 2 else None),
            *(weights, None, None),
            cell=case.cell,
            reverse=case.reverse,
        )
        y.insert(0 if back else -1, found.y.reshape(end - start, -1))
        state = [s.reshape(-1) for s in (found.hn, found.cn) if s is not None]
    return torch.cat(y), state


def put_together(case: Case, inputs: Inputs) -> dict[str, Tensor]:
    """What `cases.run` returns, row by row and piece by piece."""
    names = ["x", *(["h0", "c0"] if case.cell == "lstm" else ["h0"])]
    given = [getattr(inputs, name) for name in names] + inputs.weights
    leaves = [leaf.clone().requires_grad_() for leaf in given]
    x, states, weights = leaves[0], leaves[1 : len(names)], leaves[len(names) :]
    marks = torch.zeros(case.steps, case.batch) if inputs.resets is None else inputs.resets
    rows = [
        row_alone(
            case,
            weights,
            x[:, b],
            [state[0, b] for state in states],
            marks[:, b],
            case.steps if inputs.lengths is None else int(inputs.lengths[b]),
        )
        for b in range(case.batch)
    ]
    y = torch.stack([row for row, _ in rows], 1).unsqueeze(2)
    finals = [torch.stack(s).unsqueeze(0) for s in zip(*(s for _, s in rows), strict=True)]
    grads = torch.autograd.grad([y, *finals], leaves, inputs.cotangents)
    weight_names = [f"weights[{index}]" for index in range(len(weights))]
    found = dict(zip(("y", "hn", "cn"), (y, *finals), strict=False))
    named = zip(names + weight_names, grads, strict=True)
    return {k: v.detach() for k, v in found.items()} | {f"d{name}": g for name, g in named}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("reverse", [(0,), (1,)], ids=["forward", "reverse"])
@pytest.mark.parametrize(
    ("lengths", "resets"), [(True, False), (False, True), (True, True)], ids=["l", "r", "lr"]
)
@pytest.mark.parametrize("cell", CELLS)
def test_segments_run_separately(
    cell: str, lengths: bool, resets: bool, reverse: tuple[int, ...], backend: str
) -> None:
    case = Case(cell, batch=6, reverse=reverse, lengths=lengths, resets=resets)
    need(backend, case)
    inputs = make(case)
    found = run(case, inputs, backend)
    for name, truth in put_together(case, inputs).items():
        assert_within_budget(found[name], truth, name=name, backend=backend, case=case)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_marks_past_the_length_mean_nothing(cell: str, backend: str) -> None:
    case = Case(cell, batch=5, reverse=(0, 1), lengths=True, resets=True)
    need(backend, case)
    inputs = make(case)
    past = torch.arange(case.steps).unsqueeze(1) >= inputs.lengths
    found = run(case, inputs._replace(resets=inputs.resets | past), backend)
    for name, tensor in run(case, inputs._replace(resets=inputs.resets & ~past), backend).items():
        assert torch.equal(found[name], tensor), name


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_mark_on_step_zero_discards_the_forward_state_only(backend: str) -> None:
    case = Case("gru", reverse=(0, 1), resets=True)
    need(backend, case)
    inputs = make(case)
    marks = torch.zeros_like(inputs.resets)
    marks[0] = True
    found = run(case, inputs._replace(resets=marks), backend)
    h0 = inputs.h0.clone()
    h0[0] = 0
    without = run(case, inputs._replace(resets=None, h0=h0), backend)
    without["dh0"][0] = 0
    for name, truth in without.items():
        assert_within_budget(found[name], truth, name=name, backend=backend, case=case)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("cell", CELLS)
def test_empty_rows_pass_their_state_on(cell: str, backend: str) -> None:
    case = Case(cell, reverse=(0, 1), lengths=True, resets=True)
    need(backend, case)
    inputs = make(case)
    inputs = inputs._replace(lengths=torch.zeros_like(inputs.lengths))
    found = run(case, inputs, backend)
    assert not found["y"].any()
    assert not found["dx"].any()
    for last, start, grad, cotangent in zip(
        *(("hn", "cn"), ("h0", "c0"), ("dh0", "dc0"), inputs.cotangents[1:]), strict=False
    ):
        assert torch.equal(found[last], getattr(inputs, start))
        assert torch.equal(found[grad], cotangent)
    assert not any(found[name].any() for name in found if name.startswith("dweights"))


@pytest.mark.parametrize("reverse", [(0,), (0, 1)], ids=["forward", "both"])
@pytest.mark.parametrize(
    ("cell", "backend"),
    [
        (c, b)
        for c in CELLS
        for b in (*BACKENDS, "torch")
        if (c, b) != ("gru_reset_before", "torch")
    ],
)
def test_lengths(cell: str, reverse: tuple[int, ...], backend: str) -> None:
    case = Case(cell, batch=6, reverse=reverse, lengths=True)
    need(backend, case)
    judge(case, run(case, make(case), backend), backend)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", ["fp64", "fp32", "bf16"])
@pytest.mark.parametrize("cell", CELLS)
def test_nan_past_the_length_stays_there(cell: str, dtype: str, backend: str) -> None:
    case = Case(cell, batch=5, dtype=dtype, reverse=(0, 1), lengths=True, resets=True)
    need(backend, case)
    inputs = make(case)
    past = (torch.arange(case.steps).unsqueeze(1) >= inputs.lengths).unsqueeze(2)
    dy = inputs.cotangents[0].masked_fill(past.unsqueeze(3), float("nan"))
    poisoned = inputs._replace(
        x=inputs.x.masked_fill(past, float("nan")), cotangents=(dy, *inputs.cotangents[1:])
    )
    found = run(case, poisoned, backend)
    for name, tensor in run(case, inputs, backend).items():
        assert torch.equal(found[name], tensor), name


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", ["fp64", "fp32", "fp16"])
@pytest.mark.parametrize("cell", CELLS)
def test_a_row_of_nan_does_not_spread(cell: str, dtype: str, backend: str) -> None:
    case = Case(cell, batch=5, dtype=dtype, reverse=(0, 1), resets=True)
    need(backend, case)
    inputs = make(case)
    clean, x = run(case, inputs, backend), inputs.x.clone()
    x[:, 2] = float("nan")
    found = run(case, inputs._replace(x=x), backend)
    others = [0, 1, 3, 4]
    for name in ("y", "hn", "cn", "dx", "dh0", "dc0"):
        if name in found:
            assert torch.equal(found[name][:, others], clean[name][:, others]), name
            if name in ("y", "hn", "cn"):
                assert found[name][:, 2].isnan().all(), name


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("cell", CELLS)
def test_a_nan_state_of_an_empty_row_does_not_reach_the_weights(cell: str, backend: str) -> None:
    case = Case(cell, batch=4, lengths=True)
    need(backend, case)
    inputs = make(case)
    h0 = inputs.h0.clone()
    h0[:, -1] = float("nan")
    clean, found = run(case, inputs, backend), run(case, inputs._replace(h0=h0), backend)
    assert found["hn"][:, -1].isnan().all()
    for name in clean:
        if name.startswith("dweights"):
            assert torch.equal(found[name], clean[name]), name


@pytest.mark.parametrize("backend", ["native", "torch", "reference"])
@pytest.mark.parametrize("kind", [FusedRNN, FusedGRU, FusedLSTM])
def test_a_batch_of_no_rows_has_lengths(kind: type, backend: str) -> None:
    need(backend)
    layer = kind(3, 5, num_layers=2, bidirectional=True, backend=backend)
    x = torch.randn(4, 0, 3, requires_grad=True)
    y, state = layer(x, lengths=torch.zeros(0, dtype=torch.int64))
    parts = state if isinstance(state, tuple) else (state,)
    assert y.shape == (4, 0, 10) and all(part.shape == (4, 0, 5) for part in parts)
    y.sum().backward()
    assert x.grad is not None and x.grad.shape == x.shape
    assert not any(weight.grad.any() for weight in layer.parameters())
