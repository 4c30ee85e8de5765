# SPDX-License-Identifier: MIT
"""Several Python threads at once, inside other parallel work, and after a fork."""

import multiprocessing
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from cases import CELLS, Case, make, need, run
from torch import nn

import fused_rnn

SECONDS = 30


@pytest.fixture(autouse=True)
def available() -> None:
    need("native")


def test_several_python_threads() -> None:
    cases = [
        Case(cell, 30, 6, 20, 40, dtype, reverse=(0, 1), resets=True)
        for cell in CELLS
        for dtype in ("fp32", "bf16")
    ]
    alone = [run(case, make(case), "native") for case in cases]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            together = pool.map(lambda case: run(case, make(case), "native"), cases)
            for case, found, truth in zip(cases, together, alone, strict=True):
                for name, tensor in truth.items():
                    assert torch.equal(found[name], tensor), f"{name} of {case}"


def test_a_backend_asked_for_in_one_thread_stays_there() -> None:
    module = fused_rnn.FusedGRU(2, 3)
    x = torch.randn(2, 1, 2)
    with fused_rnn.use_backend("reference"), ThreadPoolExecutor(1) as pool:
        assert fused_rnn.explain(module, x).startswith("reference")
        elsewhere = pool.submit(fused_rnn.explain, module, x).result()
    assert elsewhere.startswith("native")


def train(module: nn.Module, threads: int | None) -> None:
    if threads is not None:
        torch.set_num_threads(threads)
    module(torch.randn(40, 8, 64))[0].sum().backward()


def finishes(module: nn.Module, threads: int | None) -> bool:
    """Whether a forked child gets through a training step."""
    child = multiprocessing.get_context("fork").Process(target=train, args=(module, threads))
    child.start()
    child.join(SECONDS)
    if child.is_alive():
        child.kill()
        child.join()
        return False
    return child.exitcode == 0


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("threads", [1, None], ids=["one thread", "as inherited"])
def test_after_a_fork(threads: int | None) -> None:
    modules = [nn.LSTM(64, 64), fused_rnn.FusedLSTM(64, 64)]
    for module in modules:
        train(module, None)
    theirs, ours = (finishes(module, threads) for module in modules)
    if not theirs:
        pytest.skip("torch.nn.LSTM itself does not get through this after a fork")
    assert ours
