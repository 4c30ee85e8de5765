# SPDX-License-Identifier: MIT
"""What a step of a search leaves to the next one, by the CPU kernels and by PyTorch."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from cases import need
from torch import Tensor

from fused_rnn import ops
from fused_rnn.ops import selection
from fused_rnn.ops.selection import Advanced, Best, Notes, Outlived, Tally
from fused_rnn.seq2seq.search.beams import Beams

B, T, EOS = 6, 3, 1


@pytest.fixture(autouse=True)
def available() -> None:
    need("native")


def drawn(rows: int, each: int, *, even: bool) -> Best:
    """Continuations of rows, of which some have no probability and some are no numbers."""
    logits = torch.randint(3, (rows, 7)).float() if even else torch.randn(rows, 7)
    logits[torch.rand(rows, 7) < 0.3] = -math.inf
    values, indices = logits.log_softmax(-1).sort(descending=True, stable=True)
    peaks = logits.amax(-1)
    peaks[torch.rand(rows) < 0.1] = math.nan
    peaks[torch.rand(rows) < 0.1] = math.inf
    return Best(values[:, :each].contiguous(), indices[:, :each].contiguous(), peaks)


def live_of(rows: int) -> Tensor:
    live = torch.randn(B, rows).sort(descending=True).values
    return live.masked_fill(torch.rand(B, rows) < 0.2, -math.inf)


def noted(K: int) -> tuple[Tally, Notes]:
    tally = Tally(torch.randint(K + 1, (B,)), torch.zeros((), dtype=torch.bool))
    return tally, Beams.empty(T, B, K, torch.device("cpu")).notes


@pytest.mark.parametrize("width", ["first", "later"])
@pytest.mark.parametrize("K, each", [(1, 1), (1, 2), (2, 1), (3, 6), (5, 4), (4, 7)])
@pytest.mark.parametrize("eos", [EOS, None], ids=["ending", "endless"])
def test_advance(width: str, K: int, each: int, eos: int | None) -> None:
    W = 1 if width == "first" else K
    for case in range(30):
        found, live = drawn(B * W, each, even=case % 2 == 0), live_of(W)
        results = []
        tally, empty = noted(K)
        for function in (ops_advance, selection._advance):
            own, notes = (type(whole)(*(t.clone() for t in whole)) for whole in (tally, empty))
            after = function(found, live, own, notes, case % T, eos, case % 3 > 0)
            results.append((after, own, notes))
        judge(*results, step=case % T)


def ops_advance(
    found: Best, live: Tensor, tally: Tally, notes: Notes, step: int, *rest: Any
) -> Advanced:
    return Advanced(*ops.advance(*found, live, *tally, *notes, step, *rest))


def judge(one: Any, other: Any, *, step: int) -> None:
    (ours, tally, notes), (theirs, tally_, notes_) = one, other
    assert torch.equal(ours.live, theirs.live)
    assert all(torch.equal(a, b) for a, b in zip(tally, tally_, strict=True))
    assert torch.equal(notes.ended, notes_.ended)
    ended, lives = notes.ended[step] > -math.inf, ours.live > -math.inf
    for name in ("end_parents", "end_gains"):
        a, b = getattr(notes, name), getattr(notes_, name)
        assert torch.equal(a[step][ended], b[step][ended])
    for name in ("tokens", "parents", "gains"):
        a, b = getattr(notes, name), getattr(notes_, name)
        assert torch.equal(a[step][lives], b[step][lives])
        # Other steps are left alone.
        assert not a.nan_to_num(neginf=0)[torch.arange(T) != step].any()
    for name in ("rows", "tokens"):
        a, b = (getattr(part, name).view_as(lives) for part in (ours, theirs))
        assert torch.equal(a[lives], b[lives])


@pytest.mark.parametrize("eos", [EOS, None], ids=["ending", "endless"])
@pytest.mark.parametrize("limited", [False, True], ids=["free", "limited"])
def test_outlive(eos: int | None, limited: bool) -> None:
    for _ in range(30):
        found, limits = drawn(B, 1, even=False), torch.randint(1, 4, (B,)) if limited else None
        before = Outlived(torch.rand(B) < 0.7, torch.rand(B) < 0.8, torch.randint(3, (B,)))
        flags = [torch.zeros((), dtype=torch.bool) for _ in range(2)]
        ours = ops.outlive(*found, *before, limits, flags[0], eos)
        theirs = selection._outlive(found, before, limits, flags[1], eos)
        pairs = zip((*ours, flags[0]), (*theirs, flags[1]), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)


VALUES, PLACES, PEAKS = torch.zeros(4, 3), torch.zeros(4, 3, dtype=torch.int64), torch.zeros(4)
GIVEN = (VALUES, PLACES, PEAKS, torch.zeros(2, 2))
ROWS = (PEAKS > 0, PEAKS > 0)
NOTES = Beams.empty(T, 2, 2, torch.device("cpu")).notes
TALLY = (torch.zeros(2, dtype=torch.int64), torch.zeros((), dtype=torch.bool))


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: ops.best(VALUES[0], 1, None), "x: expected 2 dim"),
        (lambda: ops.best(VALUES, 4, None), "k: expected 1 to 3, got 4"),
        (lambda: ops.best(VALUES, 1, torch.tensor([3])), "excluded: expected columns from 0 to 2"),
        (lambda: ops.best(VALUES, 1, PEAKS), "excluded: expected dtype Long"),
        (lambda: ops.advance(*GIVEN, *TALLY, *NOTES, T, 1, True), "step: expected 0 to 2, got 3"),
        (lambda: ops.advance(*GIVEN, *TALLY, *NOTES, -1, 1, True), "step: expected 0 to 2"),
        (lambda: ops.advance(*GIVEN[:3], PEAKS, *TALLY, *NOTES, 0, 1, True), "expected 2, 2 and 3"),
        (
            lambda: ops.advance(VALUES[1:], *GIVEN[1:], *TALLY, *NOTES, 0, 1, True),
            "values: expected shape .4, 3., got .3, 3.",
        ),
        (
            lambda: ops.outlive(
                VALUES, PLACES, PEAKS, *[PEAKS > 0] * 2, PLACES[:, 0], None, TALLY[1], 1
            ),
            "values: expected shape .4, 1.",
        ),
    ],
    ids=range(9),
)
def test_the_ops_refuse(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        call()
