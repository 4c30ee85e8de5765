# SPDX-License-Identifier: MIT
"""The tolerance rule itself, and that nothing else in the tree is tolerant."""

import re
from pathlib import Path

import pytest
import torch

from fused_rnn.testing import assert_within_budget, error_budget, errors

ROOT = Path(__file__).parents[2]


def test_the_rule() -> None:
    truth = torch.tensor([1.0, -4.0, 2.0], dtype=torch.float64)
    reference = (truth + torch.tensor([0.0, 0.0, 0.5], dtype=torch.float64)).float()
    budget = error_budget(truth, reference, torch.float32)
    rounding = 4 * torch.finfo(torch.float32).eps * 4.0
    assert budget.maximum == pytest.approx(2 * 0.5 + rounding, abs=0, rel=1e-12)
    assert budget.rms == pytest.approx(2 * (0.25 / 3) ** 0.5 + rounding, abs=0, rel=1e-12)
    assert error_budget(truth, None, torch.float64) == (4e-12, 4e-12)
    with pytest.raises(ValueError, match="reference"):
        error_budget(truth, None, torch.float16)


def test_both_norms_count() -> None:
    truth = torch.zeros(100, dtype=torch.float64)
    reference = torch.zeros(100)
    reference[0] = 1
    spread = torch.full((100,), 0.5)
    assert errors(spread, truth).maximum < error_budget(truth, reference, torch.float32).maximum
    with pytest.raises(AssertionError, match="rms error 5.000e-01 of 2.000e-01"):
        assert_within_budget(spread, truth, reference)


def test_the_message_says_where() -> None:
    truth = torch.zeros(2, 3, dtype=torch.float64)
    actual = truth.clone()
    actual[1, 2] = 0.25
    with pytest.raises(AssertionError, match=r"dx native gru-T3: got 0\.25 for 0\.0 at \(1, 2\)"):
        assert_within_budget(actual, truth, name="dx", backend="native", case="gru-T3")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_special_values_stand_where_they_should(value: float) -> None:
    truth = torch.tensor([1.0, 2.0, value], dtype=torch.float64)
    assert_within_budget(truth.clone(), truth)
    for wrong in ([1.0, 2.0, 3.0], [value, 2.0, value], [1.0, 2.0, -value]):
        actual = torch.tensor(wrong, dtype=torch.float64)
        if actual.isnan().tolist() == truth.isnan().tolist() and value != value:
            continue
        with pytest.raises(AssertionError, match="such places"):
            assert_within_budget(actual, truth)


def test_shapes_and_empty_tensors() -> None:
    assert_within_budget(torch.zeros(0, 3), torch.zeros(0, 3).double(), torch.zeros(0, 3))
    with pytest.raises(AssertionError, match="expected"):
        assert_within_budget(torch.zeros(3), torch.zeros(3, 1).double(), torch.zeros(3))


def test_no_other_tolerance() -> None:
    """What compares by itself does so by the float64 rule, spelt out."""
    own = (r"assert_close\((?!.*rtol=)", r"\b[ar]tol=(?!1e-12\b)", r"\bassert (?!not).*allclose")
    tolerant = re.compile("|".join(own))
    files = [
        path for folder in ("fused_rnn", "tests", "bench") for path in (ROOT / folder).rglob("*.py")
    ]
    assert not [
        f"{path.relative_to(ROOT)}:{number}"
        for path in files
        if path != Path(__file__)
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if tolerant.search(line)
    ]
