# SPDX-License-Identifier: MIT
"""The one tolerance of this project: how far a result may be from the truth."""

from typing import NamedTuple

import torch
from torch import Tensor

# Relative to the largest value of the truth; float64 has no wider type to be judged in.
FLOAT64 = 1e-12


class Budget(NamedTuple):
    """The largest error allowed, in both norms."""

    maximum: float
    rms: float


def error_budget(truth: Tensor, reference: Tensor | None, dtype: torch.dtype) -> Budget:
    """The error allowed to a result in `dtype`: twice the reference's, and four roundings.

    float64 results get 1e-12 of the largest value instead, and need no `reference`.

    Args:
        truth: the result in float64.
        reference: what the reference backend makes of the same inputs in `dtype`.
        dtype: of the result to judge.
    """
    largest = _largest(truth)
    if dtype == torch.float64 or reference is None:
        if dtype != torch.float64:
            raise ValueError(f"reference: expected a tensor in {dtype}, got None")
        return Budget(FLOAT64 * largest, FLOAT64 * largest)
    rounding = 4 * torch.finfo(dtype).eps * largest
    error = errors(reference, truth)
    return Budget(2 * error.maximum + rounding, 2 * error.rms + rounding)


def errors(actual: Tensor, truth: Tensor) -> Budget:
    """The errors of `actual` in both norms, over the places where the truth is finite."""
    difference = _difference(actual, truth)
    if difference.numel() == 0:
        return Budget(0.0, 0.0)
    return Budget(difference.max().item(), difference.square().mean().sqrt().item())


def assert_within_budget(
    actual: Tensor,
    truth: Tensor,
    reference: Tensor | None = None,
    *,
    name: str = "result",
    backend: str = "",
    case: object = "",
) -> None:
    """Raises AssertionError unless `actual` is as near to the truth as `error_budget` asks.

    NaN and infinities must stand where they stand in the truth.

    Args:
        actual: the result to judge.
        truth: the same in float64.
        reference: the same by the reference in the dtype of `actual`; not needed for float64.
        name, backend, case: what the message calls them.
    """
    what = " ".join(str(word) for word in (name, backend, case) if str(word))
    if actual.shape != truth.shape:
        raise AssertionError(f"{what}: expected {tuple(truth.shape)}, got {tuple(actual.shape)}")
    _check_special(actual, truth, what)
    budget, error = error_budget(truth, reference, actual.dtype), errors(actual, truth)
    if error.maximum <= budget.maximum and error.rms <= budget.rms:
        return
    index = _place(_difference(actual, truth).argmax(), truth)
    raise AssertionError(
        f"{what}: got {actual[index].item()!r} for {truth[index].item()!r} at {index}; "
        f"max error {error.maximum:.3e} of {budget.maximum:.3e}, "
        f"rms error {error.rms:.3e} of {budget.rms:.3e}"
    )


def _check_special(actual: Tensor, truth: Tensor, what: str) -> None:
    kinds = torch.isnan(actual) == torch.isnan(truth)
    limits = torch.isinf(actual) | torch.isinf(truth)
    wrong = ~kinds | (limits & (actual.double() != truth))
    if wrong.any():
        index = _place(wrong.int().argmax(), truth)
        found = f"got {actual[index].item()!r} for {truth[index].item()!r} at {index}"
        raise AssertionError(f"{what}: {found}, {int(wrong.sum())} such places")


def _difference(actual: Tensor, truth: Tensor) -> Tensor:
    difference = (actual.detach().double() - truth.detach().double()).abs()
    return torch.where(torch.isfinite(truth), difference, 0)


def _largest(truth: Tensor) -> float:
    finite = truth.detach()[torch.isfinite(truth)]
    return finite.abs().max().item() if finite.numel() else 0.0


def _place(flat: Tensor, like: Tensor) -> tuple[int, ...]:
    return tuple(int(axis) for axis in torch.unravel_index(flat, like.shape))
