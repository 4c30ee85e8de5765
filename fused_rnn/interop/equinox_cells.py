# SPDX-License-Identifier: MIT
"""Equinox' LSTMCell and GRUCell as fused layers."""

from __future__ import annotations

from typing import Any

import torch

from ..nn.fused_layer import FusedLayer
from ..nn.layers import FusedGRU, FusedLSTM
from .recurrences import Recurrence, layer_of, tensor


def from_equinox(cell: Any) -> FusedLayer:
    """The fused layer, of sequences (T, B, I), of an Equinox cell, which a scan calls step by step.

    Args:
        cell: equinox.nn.LSTMCell or equinox.nn.GRUCell.

    Raises:
        TypeError: it is neither.
        ModuleNotFoundError: the `equinox` package is not installed.
    """
    import equinox

    if type(cell) not in (equinox.nn.LSTMCell, equinox.nn.GRUCell):
        expected = "equinox.nn.LSTMCell or GRUCell"
        raise TypeError(f"cell: expected {expected}, got {type(cell).__name__}")
    w_ih, w_hh = tensor(cell.weight_ih), tensor(cell.weight_hh)
    b_ih = tensor(cell.bias) if cell.use_bias else None
    if type(cell) is equinox.nn.LSTMCell:
        return layer_of(FusedLSTM, [Recurrence(w_ih, w_hh, b_ih, None)], batch_first=False)
    b_hh = None
    if cell.use_bias:
        b_n = tensor(cell.bias_n)
        b_hh = torch.cat([b_n.new_zeros(2 * len(b_n)), b_n])
    return layer_of(FusedGRU, [Recurrence(w_ih, w_hh, b_ih, b_hh)], batch_first=False)
