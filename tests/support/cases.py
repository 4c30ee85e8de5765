# SPDX-License-Identifier: MIT
"""The shapes and options that tests run a layer over, its inputs, and the judgement of results."""

import functools
import platform
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.backends import mkldnn

from fused_rnn import ops
from fused_rnn._call.arguments import Arguments
from fused_rnn._call.dispatch import run_layer as dispatched
from fused_rnn._call.matmul_precision import products_of
from fused_rnn.backends import choice
from fused_rnn.backends.backend import Backend, Query
from fused_rnn.ops import GATES, LayerOutput
from fused_rnn.testing import assert_within_budget

CELLS = tuple(GATES)
DTYPES = {
    "fp64": torch.float64,
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
ARM = platform.machine() in ("aarch64", "arm64")
SETS_OF_FAMILY = ("neon_bf16", "neon") if ARM else ("amx", "avx512_bf16", "avx512", "avx2")
INSTRUCTION_SETS = (*SETS_OF_FAMILY, "amx_twin", "portable")


@dataclass(frozen=True)
class Case:
    """One layer: its sizes, and what is there or not."""

    cell: str
    steps: int = 17
    batch: int = 3
    inputs: int = 6
    hidden: int = 13
    dtype: str = "fp64"
    reverse: tuple[int, ...] = (0,)
    bias: bool = True
    states: bool = True
    lengths: bool = False
    resets: bool = False
    projection: int = 0

    def __str__(self) -> str:
        words = [self.cell, f"T{self.steps}", f"B{self.batch}", f"I{self.inputs}"]
        words += [f"H{self.hidden}", self.dtype]
        words += [] if self.reverse == (0,) else ["".join("fr"[back] for back in self.reverse)]
        words += [] if self.bias else ["nobias"]
        words += [] if self.states else ["noh0"]
        words += [name for name in ("lengths", "resets") if getattr(self, name)]
        words += [f"P{self.projection}"] if self.projection else []
        return "-".join(words)

    @property
    def output(self) -> int:
        """P, the size of one recurrence's output."""
        return self.projection or self.hidden


class Inputs(NamedTuple):
    """What a layer takes, and a cotangent for each of its outputs."""

    x: Tensor
    h0: Tensor | None
    c0: Tensor | None
    weights: list[Tensor]
    lengths: Tensor | None
    resets: Tensor | None
    cotangents: tuple[Tensor, ...]

    def to(self, dtype: torch.dtype) -> "Inputs":
        """The same numbers in another type."""

        def cast(t: Tensor | None) -> Tensor | None:
            return None if t is None else t.to(dtype)

        weights, cotangents = [w.to(dtype) for w in self.weights], self.cotangents
        return self._replace(
            x=self.x.to(dtype),
            h0=cast(self.h0),
            c0=cast(self.c0),
            weights=weights,
            cotangents=tuple(c.to(dtype) for c in cotangents),
        )


def ids(case: object) -> str:
    """The name of a parameter in test ids."""
    return str(case)


def options(cell: str, dtype: str = "fp64") -> list[Case]:
    """Each option of a layer by itself, and the ones that meet in the kernels together."""
    plain = Case(cell, dtype=dtype)
    every = [
        replace(plain, hidden=65, inputs=33),
        replace(plain, hidden=64, inputs=64, batch=16, steps=5),
        replace(plain, steps=1, states=False),
        # One number alone, which may be a difference of large ones, is no norm for half types.
        replace(plain, batch=1, hidden=1 if dtype in ("fp64", "fp32") else 3, inputs=1),
        replace(plain, bias=False),
        replace(plain, reverse=(1,), states=False, bias=False),
        replace(plain, lengths=True, batch=5),
        replace(plain, resets=True),
        replace(plain, reverse=(0, 1), lengths=True, resets=True, batch=7),
        replace(plain, reverse=(0, 1, 1, 0), resets=True, states=False),
    ]
    if cell == "lstm":
        every += [
            replace(plain, projection=5),
            replace(plain, projection=5, reverse=(0, 1), lengths=True, resets=True, bias=False),
        ]
    return every


def make(case: Case, seed: int = 0) -> Inputs:
    """Random inputs of a case, the same for the same seed; weights as torch.nn scales them."""
    draw = torch.Generator().manual_seed(seed)
    dtype, count = DTYPES[case.dtype], len(case.reverse)
    steps, batch, hidden, output = case.steps, case.batch, case.hidden, case.output

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draw, dtype=torch.float64).to(dtype)

    rows = GATES[case.cell] * hidden
    shapes = [(rows, case.inputs), (rows, output)] + [(rows,), (rows,)] * case.bias
    shapes += [(output, hidden)] if case.projection else []
    is_lstm = case.cell == "lstm"
    x = normal(steps, batch, case.inputs)
    weights = [normal(*shape) / hidden**0.5 for _ in range(count) for shape in shapes]
    if case.cell == "rnn_relu" and dtype in (torch.bfloat16, torch.float16):
        _keep_off_the_kink(x, weights, len(shapes))
    lengths = torch.randint(0, steps + 1, (batch,), generator=draw)
    lengths[0] = steps
    lengths[-1] = 0 if batch > 1 else steps
    marks = torch.rand(steps, batch, generator=draw) < 0.2
    marks[0, batch // 2] = True
    return Inputs(
        x=x,
        h0=normal(count, batch, output) if case.states else None,
        c0=normal(count, batch, hidden) if case.states and is_lstm else None,
        weights=weights,
        lengths=lengths if case.lengths else None,
        resets=marks if case.resets else None,
        cotangents=(
            normal(steps, batch, count, output),
            normal(count, batch, output),
            *([normal(count, batch, hidden)] if is_lstm else []),
        ),
    )


def rows_of(inputs: Inputs, rows: slice) -> Inputs:
    """Some rows of a batch by themselves."""

    def cut(t: Tensor | None) -> Tensor | None:
        return None if t is None else t[:, rows]

    return inputs._replace(
        x=inputs.x[:, rows],
        h0=cut(inputs.h0),
        c0=cut(inputs.c0),
        lengths=None if inputs.lengths is None else inputs.lengths[rows],
        resets=cut(inputs.resets),
        cotangents=tuple(c[:, rows] for c in inputs.cotangents),
    )


def _keep_off_the_kink(x: Tensor, weights: list[Tensor], per: int) -> None:
    """Turns each unit of a rectified network clearly on or off, through a constant input.

    The slope jumps at zero: where rounding decides on which side a sum falls, nothing is truth.
    """
    x[..., 0] = 1
    for index, weight in enumerate(weights):
        on = weight[:, 0] > 0 if index % per == 0 else None
        weight.div_(4)
        if on is not None:
            weight[:, 0] = torch.where(on, 4.0, -4.0)


def run(case: Case, inputs: Inputs, backend: str) -> dict[str, Tensor]:
    """Outputs and all gradients of a layer, by name."""
    leaves = {"x": inputs.x, "h0": inputs.h0, "c0": inputs.c0}
    leaves |= {f"weights[{index}]": weight for index, weight in enumerate(inputs.weights)}
    leaves = {
        name: leaf.detach().clone().requires_grad_()
        for name, leaf in leaves.items()
        if leaf is not None
    }
    weights = [leaf for name, leaf in leaves.items() if name.startswith("weights")]
    output = run_layer(
        *(leaves["x"], leaves.get("h0"), leaves.get("c0"), weights),
        *(inputs.lengths, inputs.resets),
        cell=case.cell,
        reverse=case.reverse,
        backend=backend,
    )
    outputs = [tensor for tensor in output if tensor is not None]
    grads = torch.autograd.grad(outputs, list(leaves.values()), inputs.cotangents)
    found = dict(zip(("y", "hn", "cn"), (t.detach() for t in outputs), strict=False))
    return found | {f"d{name}": grad for name, grad in zip(leaves, grads, strict=True)}


def run_prepacked(case: Case) -> dict[str, Tensor]:
    """Outputs of a layer whose weights were packed beforehand."""
    inputs = make(case)
    x, h0, c0, weights, lengths, resets = inputs[:6]
    pack = ops.prepack(weights, case.cell, case.reverse)
    y, hn, cn = ops.prepacked_forward(x, h0, c0, pack, lengths, resets)
    y = y.unflatten(2, (len(case.reverse), -1))
    return {n: t for n, t in zip(("y", "hn", "cn"), (y, hn, cn), strict=True) if t is not None}


def oracle(case: Case, seed: int = 0) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The truth in float64, and what the reference makes of the case in its own type."""
    return _oracle(case, seed, products_of(torch.empty(0, dtype=DTYPES[case.dtype])))


@functools.lru_cache(maxsize=512)
def _oracle(case: Case, seed: int, products: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    # The reference follows torch's setting by itself: the number of products is a key only.
    inputs = make(case, seed)
    truth = run(case, inputs.to(torch.float64), "reference")
    return truth, truth if case.dtype == "fp64" else run(case, inputs, "reference")


def judge(case: Case, found: dict[str, Tensor], backend: str, seed: int = 0) -> None:
    """Raises AssertionError unless everything found is within the budget."""
    assert found.keys() == oracle(case, seed)[0].keys()
    judge_outputs(case, found, backend, seed)


def judge_outputs(case: Case, found: dict[str, Tensor], backend: str, seed: int = 0) -> None:
    """The same for some of what `run` finds."""
    truth, reference = oracle(case, seed)
    for name, tensor in found.items():
        assert tensor.dtype == DTYPES[case.dtype], f"{name} came back in {tensor.dtype}"
        assert_within_budget(
            tensor, truth[name], reference[name], name=name, backend=backend, case=case
        )


def run_layer(*tensors: Any, backend: str, cell: str, reverse: Sequence[int]) -> LayerOutput:
    """One layer on the backend named, over x, h0, c0, weights, lengths and resets."""
    x, h0, c0, weights, lengths, resets = tensors
    given = Arguments(x, h0, c0, lengths, resets)
    # The emulator's kernels are ops, and no backend to choose.
    own = choice.BACKENDS.get(backend) or Backend(backend, lambda query: None)
    return dispatched(given, weights, cell=cell, reverse=tuple(reverse), backend=own)


def need(backend: str, case: Case | None = None) -> None:
    """Skips the test where the backend cannot run, with its reason."""
    case = case or Case("lstm")
    query = Query(case.cell, DTYPES[case.dtype], "cpu", case.reverse, case.resets)
    reason = choice.BACKENDS[backend].why_not(query)
    if reason is not None:
        pytest.skip(f"{backend}: {reason}")


def reset_precision() -> None:
    """Sets torch's settings of float32 precision as a process starts with them."""
    torch.set_float32_matmul_precision("highest")
    mkldnn.set_flags(_fp32_precision="none")
    torch.backends.fp32_precision = "none"
    for part in (mkldnn.matmul, mkldnn.rnn, torch.backends.cuda.matmul):
        part.fp32_precision = "none"
