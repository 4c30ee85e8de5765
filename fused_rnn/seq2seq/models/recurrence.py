# SPDX-License-Identifier: MIT
"""The recurrent layers that models are made of, by the name of their cell, and their states."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor

from ...nn.fused_layer import FusedLayer
from ...nn.layers import FusedGRU, FusedLSTM, FusedRNN

# (L, B, H), for the LSTM a pair.
State = Tensor | tuple[Tensor, Tensor]

_LAYERS: dict[str, Callable[..., FusedLayer]] = {
    "rnn_tanh": partial(FusedRNN, nonlinearity="tanh"),
    "rnn_relu": partial(FusedRNN, nonlinearity="relu"),
    "gru": FusedGRU,
    "gru_reset_before": partial(FusedGRU, reset_after=False),
    "lstm": FusedLSTM,
}
CELLS = tuple(_LAYERS)


def recurrence(
    cell: str,
    input_size: int,
    hidden_size: int,
    num_layers: int,
    *,
    dropout: float = 0.0,
    bidirectional: bool = False,
    backend: str = "auto",
) -> FusedLayer:
    """Returns the layers of a cell, time first.

    Args:
        cell: one of CELLS.
        dropout: between layers; a single layer has none, and torch.nn's warning is spared.
        input_size, hidden_size, num_layers, bidirectional, backend: as `FusedGRU` has them.

    Raises:
        ValueError: there is no cell of this name.
    """
    if cell not in _LAYERS:
        raise ValueError(f"cell: expected one of {CELLS}, got {cell!r}")
    return _LAYERS[cell](
        input_size,
        hidden_size,
        num_layers,
        dropout=dropout if num_layers > 1 else 0.0,
        bidirectional=bidirectional,
        backend=backend,
    )


def map_state(function: Callable[[Tensor], Tensor], state: State) -> State:
    """Returns a state with a function applied to its tensors."""
    if isinstance(state, Tensor):
        return function(state)
    h, c = state
    return function(h), function(c)


def hidden(state: State) -> Tensor:
    """Returns the h of a state, (L, B, H)."""
    return state if isinstance(state, Tensor) else state[0]


def detach(state: State) -> State:
    """Returns a state through which no gradient flows back."""
    return map_state(Tensor.detach, state)


def take_rows(state: State, index: Tensor) -> State:
    """Returns the state whose row n is row index[n], (N,) int64, of the one given."""
    return map_state(lambda part: part.index_select(1, index), state)
