# SPDX-License-Identifier: MIT
"""First and second derivatives against finite differences, in both modes, batched too."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from cases import CELLS, Case, make, need, run_layer
from torch import Tensor

CASES = [
    *(Case(cell, 3, 2, 2, 2, reverse=(0, 1), lengths=True, resets=True) for cell in CELLS),
    Case("lstm", 2, 2, 2, 3, projection=2),
]
RUNS = [(backend, case) for backend in ("reference", "native") for case in CASES]
RUNS += [("torch", replace(c, resets=False)) for c in CASES if c.cell != "gru_reset_before"]
each_run = pytest.mark.parametrize(("backend", "case"), RUNS, ids=str)


def function(case: Case, backend: str) -> tuple[Callable[..., tuple[Tensor, ...]], tuple[Any, ...]]:
    """The layer as a function of all that may have a gradient, and where to take it."""
    inputs = make(case)
    tensors = [inputs.x, inputs.h0, inputs.c0, *inputs.weights]
    # A mark inside the short sequence, whatever the random ones are.
    resets = None if inputs.resets is None else inputs.resets.clone()
    if resets is not None:
        resets[1, 0] = True

    def outputs(x: Tensor, h0: Tensor, c0: Tensor | None, *weights: Tensor) -> tuple[Tensor, ...]:
        found = run_layer(
            *(x, h0, c0, weights, inputs.lengths, resets),
            cell=case.cell,
            reverse=case.reverse,
            backend=backend,
        )
        return tuple(tensor for tensor in found if tensor is not None)

    return outputs, tuple(None if t is None else t.requires_grad_() for t in tensors)


@each_run
def test_gradcheck(case: Case, backend: str) -> None:
    need(backend, case)
    torch.autograd.gradcheck(
        *function(case, backend),
        check_forward_ad=True,
        check_batched_grad=True,
        check_batched_forward_grad=backend == "native",
        fast_mode=backend != "native",
    )


@each_run
def test_gradgradcheck(case: Case, backend: str) -> None:
    need(backend, case)
    torch.autograd.gradgradcheck(
        *function(case, backend), check_fwd_over_rev=True, check_rev_over_rev=True, fast_mode=True
    )
