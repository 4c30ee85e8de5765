# SPDX-License-Identifier: MIT
"""Packed sequences: torch.nn's results and indices, `lengths`' numbers, and their own checks."""

from typing import Any

import pytest
import torch
from torch.nn.utils.rnn import (
    PackedSequence,
    pack_padded_sequence,
    pack_sequence,
    pad_packed_sequence,
)
from twins import LAYERS, assert_same, assert_same_training, outcome, state, tensors, twins

LENGTHS = {
    "sorted": ([5, 3, 3, 1], True),
    "unsorted": ([3, 1, 5, 3], False),
    "equal": ([5, 5, 5, 5], True),
    "one row": ([5], True),
}
OPTIONS: list[dict[str, Any]] = [
    {},
    dict(num_layers=2, bidirectional=True, batch_first=True),
    dict(num_layers=2, bias=False),
]


def packed(lengths: list[int], ordered: bool, dtype: torch.dtype = torch.float64) -> PackedSequence:
    x = torch.randn(5, len(lengths), 3, dtype=dtype)
    return pack_padded_sequence(x, torch.tensor(lengths), enforce_sorted=ordered)


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("kind", LAYERS)
def test_as_in_torch(kind: str, options: dict[str, Any], lengths: str) -> None:
    ours, theirs = twins(kind, 3, 5, **options)
    x = packed(*LENGTHS[lengths])
    x.data.requires_grad_()
    rows = ours.num_layers * (2 if ours.bidirectional else 1)
    hx = state(kind, rows, len(LENGTHS[lengths][0]), 5)
    for h in tensors(hx):
        h.requires_grad_()
    assert_same(ours(x), theirs(x))
    assert_same(ours(x, hx), theirs(x, hx))
    assert_same_training(ours, theirs, x)
    assert_same_training(ours, theirs, x, hx)


def test_projection() -> None:
    ours, theirs = twins("LSTM", 3, 5, 2, proj_size=2, bidirectional=True)
    assert_same_training(ours, theirs, packed([3, 1, 5, 3], False))


@pytest.mark.parametrize("kind", LAYERS)
def test_indices_are_handed_through(kind: str) -> None:
    ours, _ = twins(kind, 3, 5)
    x = packed([3, 1, 5, 3], False)
    y, _ = ours(x)
    assert y.batch_sizes is x.batch_sizes
    assert y.sorted_indices is x.sorted_indices
    assert y.unsorted_indices is x.unsorted_indices


@pytest.mark.parametrize("kind", LAYERS)
def test_same_numbers_as_lengths(kind: str) -> None:
    ours, _ = twins(kind, 3, 5, num_layers=2, bidirectional=True)
    lengths = [3, 1, 5, 3]
    x = torch.randn(5, 4, 3, dtype=torch.float64)
    hx = state(kind, 4, 4, 5)
    y, states = ours(pack_padded_sequence(x, lengths, enforce_sorted=False), hx)
    expected = ours(x, hx, lengths=lengths)
    assert_same((pad_packed_sequence(y)[0], states), expected)


@pytest.mark.parametrize("kind", LAYERS)
def test_resets(kind: str) -> None:
    ours, _ = twins(kind, 3, 5, num_layers=2, bidirectional=True)
    lengths = [3, 1, 5, 3]
    x = torch.randn(5, 4, 3, dtype=torch.float64)
    marks = torch.rand(5, 4) < 0.4
    y, states = ours(
        pack_padded_sequence(x, lengths, enforce_sorted=False),
        resets=pack_padded_sequence(marks, lengths, enforce_sorted=False).data,
    )
    expected = ours(x, lengths=lengths, resets=marks)
    assert_same((pad_packed_sequence(y)[0], states), expected)
    with pytest.raises(ValueError, match=r"resets: expected shape \(12,\), got \(5, 4\)"):
        ours(pack_padded_sequence(x, lengths, enforce_sorted=False), resets=marks)


@pytest.mark.parametrize("kind", LAYERS)
def test_empty_batches(kind: str) -> None:
    ours, theirs = twins(kind, 3, 5)
    nothing = PackedSequence(torch.randn(0, 3, dtype=torch.float64), torch.tensor([0]))
    assert_same(ours(nothing), theirs(nothing))
    trailing = PackedSequence(torch.randn(6, 3, dtype=torch.float64), torch.tensor([3, 3, 0]))
    assert_same(ours(trailing), theirs(trailing))


def _data(*shape: int, sizes: tuple[int, ...] = (2, 2, 1), **options: Any) -> PackedSequence:
    return PackedSequence(torch.randn(*shape, **options), torch.tensor(sizes, dtype=torch.int64))


BAD = {
    "dtype": (_data(5, 3, dtype=torch.float64), ValueError, "RNN input dtype .* does not match"),
    "axes": (_data(5, 1, 3), RuntimeError, "input must have 2 dimensions, got 3"),
    "features": (_data(5, 4), RuntimeError, "input_size. Expected 3, got 4"),
    "too few rows": (_data(4, 3), RuntimeError, "expected 5 rows, .* got 4"),
    "too many rows": (_data(6, 3), RuntimeError, "expected 5 rows, .* got 6"),
    "growing": (_data(5, 3, sizes=(1, 2, 2)), RuntimeError, "batch_sizes: .* never grow"),
    "negative": (_data(3, 3, sizes=(2, 2, -1)), RuntimeError, "batch_sizes: "),
    "no steps": (_data(0, 3, sizes=()), RuntimeError, "sequence length to be larger than 0"),
}


@pytest.mark.parametrize("fault", BAD)
@pytest.mark.parametrize("kind", LAYERS)
def test_bad_data_is_reported_for_every_kind(kind: str, fault: str) -> None:
    # torch.nn.LSTM checks none of these, and reads past or leaves out rows.
    x, error, message = BAD[fault]
    ours, _ = twins(kind, 3, 5, dtype=torch.float32)
    with pytest.raises(error, match=message):
        ours(x)


@pytest.mark.parametrize("kind", LAYERS)
def test_bad_states_are_reported(kind: str) -> None:
    ours, _ = twins(kind, 3, 5)
    gru, _ = twins("GRU", 3, 5)
    x = packed([3, 1, 5, 3], False)
    message = r"Expected hidden(\[0\])? size \(1, 4, 5\), got \[1, 5, 5\]"
    with pytest.raises(RuntimeError, match=message):
        ours(x, state(kind, 1, 5, 5))
    with pytest.raises(RuntimeError, match="Expected hidden"):
        ours(x, state(kind, 4, 5))
    with pytest.raises(ValueError, match="lengths: expected None with a PackedSequence"):
        ours(x, lengths=[3, 1, 5, 3])


def test_messages_are_those_of_torch_where_it_checks() -> None:
    ours, theirs = twins("GRU", 3, 5, dtype=torch.float32)
    for fault in ("dtype", "axes", "features"):
        x = BAD[fault][0]
        assert outcome(lambda x=x: ours(x)) == outcome(lambda x=x: theirs(x))


@pytest.mark.parametrize("kind", LAYERS)
def test_half_types(kind: str) -> None:
    for dtype in (torch.bfloat16, torch.float16):
        ours, _ = twins(kind, 3, 5, dtype=dtype)
        y, states = ours(packed([5, 3, 3, 1], True, dtype))
        assert all(t.dtype == dtype for t in (y.data, *tensors(states)))


@pytest.mark.parametrize("kind", LAYERS)
def test_long_and_ragged(kind: str) -> None:
    ours, theirs = twins(kind, 3, 5, bidirectional=True)
    rows = [torch.randn(int(n), 3, dtype=torch.float64) for n in torch.randint(1, 60, (17,))]
    x = pack_sequence(rows, enforce_sorted=False)
    assert_same_training(ours, theirs, x)
