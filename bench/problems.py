# SPDX-License-Identifier: MIT
"""The tensors of a case, their float64 truth, and the gate that comes before any time."""

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

import fused_rnn
from bench.cases import Case
from fused_rnn import testing

_LAYERS = {"lstm": nn.LSTM, "gru": nn.GRU, "gru_reset_before": nn.GRU, "rnn_tanh": nn.RNN}


@contextmanager
def precision_of(case: Case) -> Iterator[None]:
    """torch's setting for float32 products as the case wants it, and afterwards as it was."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(case.precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


class Problem(NamedTuple):
    """What every provider of a case gets."""

    case: Case
    layer: nn.RNNBase  # torch.nn's, it owns the weights
    x: Tensor  # (T, B, I)
    states: tuple[Tensor, ...]  # h0 (and c0) for one step, else empty: zeros
    lengths: Tensor | None  # (B,)
    resets: Tensor | None  # (T, B)
    cotangents: tuple[Tensor, ...]  # of y, hn (and cn)

    @property
    def real_steps(self) -> int:
        """Steps summed over the batch, without those past a row's length."""
        if self.lengths is None:
            return self.case.batch * self.case.steps
        return int(self.lengths.sum())

    def pack(self, padded: Tensor) -> PackedSequence:
        """A tensor (T, B, ·) without what lies past the rows' lengths."""
        if self.lengths is None:
            raise ValueError("lengths: expected a ragged case, got one without")
        return pack_padded_sequence(padded, self.lengths, enforce_sorted=False)

    def to(self, device: str, dtype: torch.dtype | None = None) -> "Problem":
        """The problem on a device, and if given in another type, with a layer of its own."""

        def move(tensor: Tensor) -> Tensor:
            return tensor.to(device, dtype)

        layer = deepcopy(self.layer).to(device, dtype)
        layer.flatten_parameters()
        return Problem(
            self.case if dtype is None else self.case._replace(dtype=str(dtype)[6:]),
            layer,
            move(self.x),
            tuple(move(state) for state in self.states),
            None if self.lengths is None else self.lengths.to(device),
            None if self.resets is None else self.resets.to(device),
            tuple(move(cotangent) for cotangent in self.cotangents),
        )


def make(case: Case) -> Problem:
    """Draws the case's tensors; the same ones in every process."""
    torch.manual_seed(zlib.crc32(case.name.encode()))
    dtype = getattr(torch, case.dtype)
    layer = _LAYERS[case.cell](
        case.inputs,
        case.hidden,
        case.layers,
        bidirectional=case.directions == 2,
        dtype=dtype,
    )
    steps, batch = case.steps, case.batch
    lengths = torch.randint(1, steps + 1, (batch,)) if case.ragged else None
    resets = torch.rand(steps, batch) < 1 / case.resets if case.resets else None
    parts = 2 if case.cell == "lstm" else 1
    state = (case.layers * case.directions, batch, case.hidden)
    output = (steps, batch, case.directions * case.hidden)
    return Problem(
        case,
        layer,
        torch.randn(steps, batch, case.inputs, dtype=dtype),
        tuple(torch.randn(state, dtype=dtype).tanh() for _ in range(parts * (steps == 1))),
        lengths,
        resets,
        tuple(torch.randn(shape, dtype=dtype) for shape in (output, *[state] * parts)),
    )


def fused(problem: Problem, backend: str = "auto", dtype: torch.dtype | None = None) -> nn.Module:
    """This package's layer with the problem's weights."""
    case = problem.case
    classes = {"lstm": fused_rnn.FusedLSTM, "rnn_tanh": fused_rnn.FusedRNN}
    options = {"reset_after": False} if case.cell == "gru_reset_before" else {}
    layer = classes.get(case.cell, fused_rnn.FusedGRU)(
        case.inputs,
        case.hidden,
        case.layers,
        bidirectional=case.directions == 2,
        backend=backend,
        device=problem.x.device,
        dtype=dtype or problem.x.dtype,
        **options,
    )
    layer.load_state_dict(problem.layer.state_dict())
    return layer


def names(problem: Problem, mode: str) -> list[str]:
    """What the tensors of a result are called, in order."""
    states = ("h", "c")[: len(problem.cotangents) - 1]
    result = ["y", *(f"{state}n" for state in states)]
    if mode == "train":
        result += ["dx", *(f"d{state}0" for state in states[: len(problem.states)])]
        result += [f"d{name}" for name, _ in problem.layer.named_parameters()]
    return result


def reference(problem: Problem, mode: str, dtype: torch.dtype) -> list[Tensor]:
    """The reference's results, computed in a dtype."""
    layer = fused(problem, "reference", dtype)
    x = problem.x.to(dtype).requires_grad_(mode == "train")
    states = tuple(s.to(dtype).requires_grad_(mode == "train") for s in problem.states)
    hx = None if not states else states if len(states) == 2 else states[0]
    y, state = layer(x, hx, lengths=problem.lengths, resets=problem.resets)
    outputs = [y, *(state if isinstance(state, tuple) else (state,))]
    if mode != "train":
        return [output.detach() for output in outputs]
    leaves = [x, *states, *layer.parameters()]
    gradients = torch.autograd.grad(
        outputs, leaves, [cotangent.to(dtype) for cotangent in problem.cotangents]
    )
    return [output.detach() for output in outputs] + list(gradients)


class Gate:
    """Compares a provider's results with float64 truth, in the package's one tolerance.

    The reference it is taken from is computed under torch's setting of the moment, as the results.
    """

    def __init__(self, problem: Problem, mode: str) -> None:
        self._names = names(problem, mode)
        self._truth = reference(problem, mode, torch.float64)
        self._reference = reference(problem, mode, problem.x.dtype)

    def worst(self, results: list[Tensor]) -> float:
        """The largest error of any result, as a multiple of its budget: at most 1 passes."""
        if len(results) != len(self._truth):
            raise ValueError(f"results: expected {self._names}, got {len(results)} tensors")
        ratios = []
        for name, result, truth, peer in zip(
            self._names, results, self._truth, self._reference, strict=True
        ):
            if result.shape != truth.shape:
                raise ValueError(
                    f"{name}: expected shape {tuple(truth.shape)}, got {tuple(result.shape)}"
                )
            error = testing.errors(result, truth)
            budget = testing.error_budget(truth, peer, result.dtype)
            ratios += [_over(error.maximum, budget.maximum), _over(error.rms, budget.rms)]
        # Not max(): a NaN must win.
        return torch.tensor(ratios).max().item()


def _over(error: float, budget: float) -> float:
    if budget > 0:
        return error / budget
    return 0.0 if error == 0 else float("inf")
