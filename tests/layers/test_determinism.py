# SPDX-License-Identifier: MIT
"""Same call, same bits; and the same for a row in another batch, on other threads, packed."""

import pytest
import torch
from cases import CELLS, DTYPES, Case, judge, make, need, rows_of, run
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.utils._pytree import tree_leaves

import fused_rnn


@pytest.fixture(autouse=True)
def available(own_threads: None) -> None:
    need("native")


def equal(found: dict[str, torch.Tensor], truth: dict[str, torch.Tensor]) -> None:
    for name, tensor in truth.items():
        assert torch.equal(found[name], tensor), name


@pytest.mark.parametrize("threads_used", [1, 2, 3])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cell", CELLS)
def test_the_same_bits_every_run(cell: str, dtype: str, threads_used: int) -> None:
    case = Case(cell, 11, 13, 20, 48, dtype, reverse=(0, 1), lengths=True, resets=True)
    torch.set_num_threads(threads_used)
    inputs = make(case)
    first = run(case, inputs, "native")
    for _ in range(3):
        equal(run(case, inputs, "native"), first)
    judge(case, first, f"native on {threads_used} threads")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cell", CELLS)
def test_a_row_gives_the_same_bits_in_any_batch_on_any_threads(cell: str, dtype: str) -> None:
    for batch, hidden in ((6, 33), (17, 65)):
        case = Case(cell, 7, batch, 20, hidden, dtype, lengths=True, resets=True)
        inputs = make(case)
        torch.set_num_threads(2)
        together = run(case, inputs, "native")
        torch.set_num_threads(1)
        equal(run(case, inputs, "native"), together)
        for b in range(batch):
            alone = run(case, rows_of(inputs, slice(b, b + 1)), "native")
            rows = {
                name: tensor[:, b : b + 1]
                for name, tensor in together.items()
                if not name.startswith("dweights")
            }
            equal(alone, rows)


@pytest.mark.parametrize("kind", ["FusedRNN", "FusedGRU", "FusedLSTM"])
def test_packed_equals_lengths(kind: str) -> None:
    module = getattr(fused_rnn, kind)(5, 9, 2, bidirectional=True, batch_first=True)
    x, lengths = torch.randn(4, 7, 5), torch.tensor([3, 7, 1, 5])
    packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
    y, last = module(packed)
    padded, _ = pad_packed_sequence(y, batch_first=True)
    expected_y, expected_last = module(x, lengths=lengths)
    assert torch.equal(padded, expected_y)
    for found, expected in zip(tree_leaves(last), tree_leaves(expected_last), strict=True):
        assert torch.equal(found, expected)
