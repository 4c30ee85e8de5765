# SPDX-License-Identifier: MIT
"""What every test runs under: seeded numbers, and hypothesis profiles without a clock."""

import sys
from collections.abc import Iterator

import hypothesis
import pytest
import torch

from fused_rnn import extensions

hypothesis.settings.register_profile(
    "fused_rnn", deadline=None, derandomize=True, database=None, print_blob=True
)
hypothesis.settings.load_profile("fused_rnn")


@pytest.fixture(autouse=True)
def seeded() -> None:
    """The same random numbers in every run, whatever ran before."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True, scope="module")
def fresh_compiler() -> None:
    """No graphs of other files: torch.compile makes only so many of one function."""
    if "torch._dynamo" in sys.modules:
        torch._dynamo.reset()


@pytest.fixture
def in_float64() -> Iterator[None]:
    """float64 where nothing else is asked for."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def own_threads() -> Iterator[None]:
    """A number of threads that a test may set, and which is gone after it."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def instruction_set(request: pytest.FixtureRequest) -> Iterator[str]:
    """One of `cases.INSTRUCTION_SETS` in the place of the fastest."""
    if extensions.why_unavailable() is not None:
        pytest.skip(f"native: {extensions.why_unavailable()}")
    # The twin of AMX runs anywhere, and is not among those to choose from.
    if request.param not in (*extensions.instruction_sets(), "amx_twin"):
        pytest.skip(f"this machine does not run {request.param}")
    extensions.set_instruction_set(request.param)
    yield request.param
    extensions.set_instruction_set("auto")
