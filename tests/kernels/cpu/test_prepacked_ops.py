# SPDX-License-Identifier: MIT
"""The ops on packed weights refuse what does not fit them."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from cases import need
from torch import Tensor

from fused_rnn import extensions, ops

X = torch.randn(1, 2, 3)


@pytest.fixture(autouse=True)
def available() -> None:
    need("native")


def test_packs_of_another_instruction_set() -> None:
    names = extensions.instruction_sets()
    if len(names) < 2:
        pytest.skip("this machine runs one instruction set")
    weight = torch.randn(8, 8)
    pack = ops.prepack_linear(weight, None)
    before = extensions.serving(torch.float32)[0]
    extensions.set_instruction_set("portable")
    try:
        with pytest.raises(
            RuntimeError, match=f"expected weights for portable, got them for {before}"
        ):
            ops.prepacked_linear(weight, pack, 8)
    finally:
        extensions.set_instruction_set("auto")


def gru(*reverse: int) -> Tensor:
    reverse = reverse or (0,)
    weights = [torch.zeros(12, 3), torch.zeros(12, 4)] * len(reverse)
    return ops.prepack(weights, "gru", reverse)


def forward(pack: Tensor, x: Tensor = X, h0: Tensor | None = None) -> Any:
    return ops.prepacked_forward(x, h0, None, pack, None, None)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda pack: ops.prepacked_linear(torch.zeros(1, 9), pack, 8), "prepacked: expected"),
        (lambda pack: ops.prepacked_linear(torch.zeros(9), pack, 8), "x: expected 2 dim"),
        (lambda pack: ops.prepacked_linear(torch.zeros(1, 8), pack, 0), "columns: expected"),
        (lambda pack: ops.prepacked_linear(torch.zeros(1, 8), pack[1:], 8), "prepacked: exp"),
        (lambda pack: ops.prepack_linear(torch.zeros(8), None), "weight: expected 2 dim"),
        (lambda pack: ops.prepack([torch.zeros(6)] * 2, "gru", [0]), "weights: expected matrices"),
        (lambda pack: ops.prepack([torch.zeros(6, 2)] * 2, "gru", []), "weights: expected"),
        (lambda pack: forward(pack), "prepacked: expected what prepack returns"),
        (lambda pack: ops.prepacked_linear(torch.zeros(1, 8), gru(), 8), "what prepack_linear ret"),
        (lambda pack: forward(gru()[:80]), "prepacked: expected sizes first, got 16 bytes"),
        (lambda pack: forward(gru()[:-1]), "prepacked: expected .* bytes behind their header"),
        (lambda pack: forward(gru(), X.double()), "x: expected the dtype of the packed weights"),
        (lambda pack: forward(gru(), X[:0]), "x: expected at least one step"),
        (lambda pack: forward(gru(), X[..., :2]), "x: expected shape .1, 2, 3., got .1, 2, 2."),
        (lambda pack: forward(gru(), X[0]), "x: expected 3 dimensions"),
        (lambda pack: forward(gru(), X, X), "h0: expected shape .1, 2, 4., got .1, 2, 3."),
        (lambda pack: ops.prepacked_step(X, None, None, gru()), "x: expected 2 dimensions"),
        (lambda pack: ops.prepacked_step(X[0], X[0], None, gru()), "h0: expected shape .2, 4."),
        (lambda pack: ops.prepacked_step(X[0], None, None, gru(0, 1)), "expected one recurrence"),
        (lambda pack: ops.top(torch.zeros(2, 3), 4), "k: expected 1 to 3, got 4"),
        (lambda pack: ops.top(torch.zeros(3), 1), "x: expected 2 dimensions"),
        (lambda pack: ops.log_softmax(torch.zeros(2, 3).double()), "x: expected dtype Float"),
    ],
)
def test_what_would_be_unsafe(call: Callable[[Tensor], Any], message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        call(ops.prepack_linear(torch.randn(8, 8), None))
