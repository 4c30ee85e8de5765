# SPDX-License-Identifier: MIT
"""FusedSLSTM beside the sLSTM of the package xlstm, by its authors."""

from typing import Any

import interop_rule
import pytest
import torch
from torch import Tensor

from fused_rnn import FusedSLSTM

pytestmark = pytest.mark.interop
cells = pytest.importorskip("xlstm.blocks.slstm.cell", reason="needs the extra `interop`")

STEPS, BATCH, INPUTS, HIDDEN = 9, 4, 6, 12


def theirs(layer: FusedSLSTM) -> Any:
    """Their cell with the layer's recurrent weights and biases; it takes the input's products."""
    heads = layer.block_diagonal
    config = cells.sLSTMCellConfig(
        hidden_size=HIDDEN, num_heads=heads, backend="vanilla", bias_init="standard"
    )
    cell = cells.sLSTMCell(config)
    # Of each head the rows of all its gates.
    blocks = layer.weight_hh_l0.detach().unflatten(0, (4, heads, -1)).transpose(0, 1)
    with torch.no_grad():
        cell._recurrent_kernel_.copy_(blocks.flatten(1, 2))
        cell._bias_.copy_(layer.bias_ih_l0 + layer.bias_hh_l0)
    return cell


@pytest.mark.parametrize("heads", [1, 3])
@pytest.mark.parametrize("given", [False, True])
def test_equals_xlstm(given: bool, heads: int) -> None:
    torch.manual_seed(0)
    layer = FusedSLSTM(INPUTS, HIDDEN, block_diagonal=heads)
    x = torch.randn(STEPS, BATCH, INPUTS)
    states = torch.randn(4, BATCH, HIDDEN)
    states[2] = states[2].abs() + 0.5  # n
    if not given:
        states = torch.zeros(4, BATCH, HIDDEN)
    products = torch.nn.functional.linear(x, layer.weight_ih_l0)
    with torch.no_grad():
        expected: Tensor
        expected, last = theirs(layer)(products.transpose(0, 1), states)
        y, finals = layer(x, tuple(states.unsqueeze(1)))
    # Theirs are (B, heads, T, units of a head).
    interop_rule.check(y, expected.permute(2, 0, 1, 3).flatten(2))
    for own, other in zip(finals, last, strict=True):
        interop_rule.check(own[0], other)
