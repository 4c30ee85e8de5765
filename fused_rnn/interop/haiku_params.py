# SPDX-License-Identifier: MIT
"""Parameters of Haiku's LSTM, GRU and VanillaRNN as fused layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..nn.fused_layer import FusedLayer
from ..nn.layers import FusedGRU, FusedLSTM, FusedRNN
from .recurrences import Recurrence, gates, layer_of, tensor


def from_haiku(params: Mapping[str, Mapping[str, Any]]) -> FusedLayer:
    """The fused layer, of sequences (T, B, I), of one Haiku core's parameters.

    Haiku's modules are gone once a function is transformed; what they were is read off the names
    and shapes of their parameters: hk.LSTM (also within hk.ResetCore, whose should_reset becomes
    `resets`), hk.GRU, a textbook GRU, and hk.VanillaRNN with relu.

    Args:
        params: from modules' names to arrays by name, as `init` of the transformed function
            returned them, of the modules of one core: `{"lstm/linear": {"w": ..., "b": ...}}`.

    Raises:
        ValueError: the parameters are not those of one such core.
    """
    found = {name.rpartition("/")[2]: dict(own) for name, own in params.items()}
    names = {name: sorted(own) for name, own in found.items()}
    if len(found) == len(params) == 1:
        (own,) = found.values()
        if set(own) == {"w_i", "w_h", "b"}:
            return _gru(own)
        if list(names) == ["linear"] and set(own) == {"w", "b"}:
            return _lstm(own)
    if set(names) == {"linear", "linear_1"} and len(params) == 2:
        return _rnn(found["linear"], found["linear_1"])
    expected = "the parameters of one hk.LSTM, hk.GRU or hk.VanillaRNN"
    raise ValueError(
        f"params: expected {expected}, got { ({n: sorted(o) for n, o in params.items()}) }"
    )


def _lstm(own: dict[str, Any]) -> FusedLayer:
    w, b = tensor(own["w"]).t(), tensor(own["b"])
    hidden = w.size(0) // 4
    if 4 * hidden != w.size(0) or w.size(1) <= hidden:
        raise ValueError(f"w: expected (I + H, 4 * H) of an hk.LSTM, got {tuple(w.t().shape)}")
    # i g f o there, over the input and the state as one vector.
    order = (0, 2, 1, 3)
    w, b = gates(w, order), gates(b, order)
    # Which Haiku adds when it computes.
    b[hidden : 2 * hidden] += 1
    inputs = w.size(1) - hidden
    recurrence = Recurrence(w[:, :inputs], w[:, inputs:], b, None)
    return layer_of(FusedLSTM, [recurrence], batch_first=False)


def _gru(own: dict[str, Any]) -> FusedLayer:
    # z r a there; its z is the share of the new state, torch.nn's of the old: 1 - s(x) = s(-x).
    order = (1, 0, 2)
    w_ih, w_hh, b = (gates(tensor(own[name]).t(), order) for name in ("w_i", "w_h", "b"))
    hidden = w_hh.size(1)
    for weight in (w_ih, w_hh, b):
        weight[hidden : 2 * hidden].neg_()
    return layer_of(
        FusedGRU, [Recurrence(w_ih, w_hh, b, None)], batch_first=False, reset_after=False
    )


def _rnn(of_input: dict[str, Any], of_state: dict[str, Any]) -> FusedLayer:
    weights = [tensor(own["w"]).t() for own in (of_input, of_state)]
    biases = [tensor(own["b"]) if "b" in own else None for own in (of_input, of_state)]
    rows = {w.size(0) for w in weights} | {weights[1].size(1)}
    if len(rows) != 1:
        shapes = [tuple(w.t().shape) for w in weights]
        raise ValueError(f"w: expected (I, H) and (H, H) of an hk.VanillaRNN, got {shapes}")
    return layer_of(
        FusedRNN, [Recurrence(*weights, *biases)], batch_first=False, nonlinearity="relu"
    )
