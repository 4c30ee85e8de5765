# SPDX-License-Identifier: MIT
"""What every test runs under: seeded numbers, and hypothesis profiles without a clock."""

import hypothesis
import pytest
import torch

hypothesis.settings.register_profile(
    "fused_rnn", deadline=None, derandomize=True, database=None, print_blob=True
)
hypothesis.settings.load_profile("fused_rnn")


@pytest.fixture(autouse=True)
def seeded() -> None:
    """The same random numbers in every run, whatever ran before."""
    torch.manual_seed(0)
