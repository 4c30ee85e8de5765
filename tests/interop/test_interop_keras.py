# SPDX-License-Identifier: MIT
"""Fused layers of Keras' layers, beside these, on its torch and its jax backend."""

import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from interop_rule import check
from torch import Tensor

from fused_rnn import FusedGRU, FusedLSTM, FusedRNN
from fused_rnn.interop import from_keras

pytestmark = pytest.mark.interop
os.environ.setdefault("KERAS_BACKEND", "torch")
keras = pytest.importorskip("keras", reason="needs the extra `interop`")

BATCH, STEPS, INPUTS, UNITS = 4, 6, 3, 5
LENGTHS = torch.tensor([6, 2, 1, 4])
LAYERS: dict[str, Any] = {
    "lstm": keras.layers.LSTM,
    "gru": keras.layers.GRU,
    "textbook": lambda *args, **options: keras.layers.GRU(*args, reset_after=False, **options),
    "rnn": keras.layers.SimpleRNN,
    "relu": lambda *args, **options: keras.layers.SimpleRNN(*args, activation="relu", **options),
    "relu gates": lambda *args, **options: keras.layers.GRU(
        *args, activation="relu", recurrent_activation="hard_sigmoid", **options
    ),
    "hard lstm": lambda *args, **options: keras.layers.LSTM(
        *args, recurrent_activation="hard_sigmoid", **options
    ),
    "around a cell": lambda *args, use_bias=True, **options: keras.layers.RNN(
        keras.layers.LSTMCell(*args, use_bias=use_bias), **options
    ),
}
CLASSES = {
    "relu gates": FusedGRU,
    "hard lstm": FusedLSTM,
    "lstm": FusedLSTM,
    "around a cell": FusedLSTM,
    "gru": FusedGRU,
    "textbook": FusedGRU,
}


@pytest.fixture(autouse=True)
def some_device() -> Iterator[None]:
    torch.manual_seed(0)
    keras.utils.set_random_seed(0)
    yield


def built(layer: Any, *, both: bool = False) -> Any:
    """The layer, with numbers in its biases, too."""
    layer.build((BATCH, STEPS, INPUTS))
    for weight in layer.weights:
        shape = tuple(weight.shape)
        weight.assign(torch.randn(shape).numpy() / 2)
    return layer


def numbers(found: Any) -> list[Tensor]:
    return [torch.from_numpy(keras.ops.convert_to_numpy(one).copy()) for one in found]


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("name", LAYERS)
def test_equals_keras(name: str, bias: bool, masked: bool) -> None:
    options = {"return_sequences": True, "return_state": True, "use_bias": bias}
    layer = built(LAYERS[name](UNITS, **options))
    fused = from_keras(layer)
    assert type(fused) is CLASSES.get(name, FusedRNN) and fused.batch_first and fused.bias == bias
    x = torch.randn(BATCH, STEPS, INPUTS)
    states = [torch.randn(BATCH, UNITS) for _ in range(2 if isinstance(fused, FusedLSTM) else 1)]
    mask = torch.arange(STEPS) < LENGTHS.unsqueeze(1) if masked else None
    y, *last = numbers(layer(x, initial_state=states, mask=mask))
    hx = tuple(state.unsqueeze(0) for state in states)
    with torch.no_grad():
        lengths = LENGTHS if masked else None
        z, finals = fused(x, hx if len(hx) == 2 else hx[0], lengths=lengths)
    if mask is not None:
        y = y * mask.unsqueeze(-1)
    check(z, y)
    for own, other in zip(finals if len(hx) == 2 else (finals,), last, strict=True):
        check(own[0], other)


@pytest.mark.parametrize("name", LAYERS)
def test_backward_in_time(name: str) -> None:
    layer = built(LAYERS[name](UNITS, return_sequences=True, go_backwards=True))
    fused = from_keras(layer)
    assert fused.direction == "reverse"
    x = torch.randn(BATCH, STEPS, INPUTS)
    (y,) = numbers([layer(x)])
    with torch.no_grad():
        check(fused(x)[0].flip(1), y)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", LAYERS)
def test_both_directions(name: str, masked: bool) -> None:
    inner = LAYERS[name](UNITS, return_sequences=True, return_state=True)
    layer = built(keras.layers.Bidirectional(inner))
    fused = from_keras(layer)
    x = torch.randn(BATCH, STEPS, INPUTS)
    mask = torch.arange(STEPS) < LENGTHS.unsqueeze(1) if masked else None
    y, *last = numbers(layer(x, mask=mask))
    with torch.no_grad():
        z, finals = fused(x, lengths=LENGTHS if masked else None)
    check(z, y)
    finals = finals if isinstance(finals, tuple) else (finals,)
    found = [state[direction] for direction in (0, 1) for state in finals]
    for own, other in zip(found, last, strict=True):
        check(own, other)


def test_other_half() -> None:
    """A backward layer of its own, of which only the weights differ."""
    layer = built(
        keras.layers.Bidirectional(
            keras.layers.GRU(UNITS, return_sequences=True),
            backward_layer=keras.layers.GRU(UNITS, return_sequences=True, go_backwards=True),
        )
    )
    x = torch.randn(BATCH, STEPS, INPUTS)
    (y,) = numbers([layer(x)])
    with torch.no_grad():
        check(from_keras(layer)(x)[0], y)


REFUSED: dict[str, Any] = {
    "activation: expected tanh": lambda: keras.layers.LSTM(UNITS, activation="elu"),
    "recurrent_activation: expected sigmoid": lambda: keras.layers.GRU(
        UNITS, recurrent_activation="relu"
    ),
    "reset_after: expected True beside": lambda: keras.layers.GRU(
        UNITS, recurrent_activation="hard_sigmoid", reset_after=False
    ),
    "activation: expected tanh or relu": lambda: keras.layers.SimpleRNN(UNITS, activation="elu"),
    "stateful: expected False": lambda: keras.layers.LSTM(UNITS, stateful=True),
    "merge_mode: expected 'concat'": lambda: keras.layers.Bidirectional(
        keras.layers.LSTM(UNITS), merge_mode="sum"
    ),
    "backward_layer: expected one like forward_layer": lambda: keras.layers.Bidirectional(
        keras.layers.LSTM(UNITS), backward_layer=keras.layers.GRU(UNITS, go_backwards=True)
    ),
    "backward_layer: expected weights like forward_layer's": lambda: keras.layers.Bidirectional(
        keras.layers.LSTM(UNITS), backward_layer=keras.layers.LSTM(UNITS + 1, go_backwards=True)
    ),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_no_layer_expresses(message: str) -> None:
    layer = REFUSED[message]()
    layer.build((BATCH, STEPS, INPUTS))
    with pytest.raises(ValueError, match=message):
        from_keras(layer)


def test_other_objects() -> None:
    with pytest.raises(TypeError, match="keras_layer: expected keras.layers.LSTM.*, got Dense"):
        from_keras(keras.layers.Dense(3))
    stacked = keras.layers.RNN([keras.layers.LSTMCell(UNITS), keras.layers.LSTMCell(UNITS)])
    with pytest.raises(TypeError, match="cell: expected one of LSTMCell.*, got StackedRNNCells"):
        from_keras(stacked)
    with pytest.raises(ValueError, match="keras_layer: expected one that is built"):
        from_keras(keras.layers.LSTM(UNITS))


def test_dropout_is_left_out_with_a_warning() -> None:
    layer = built(keras.layers.LSTM(UNITS, dropout=0.5, recurrent_dropout=0.25))
    with pytest.warns(UserWarning, match="training only: {'dropout': 0.5, 'recurrent_dropout'"):
        fused = from_keras(layer)
    x = torch.randn(BATCH, STEPS, INPUTS)
    with torch.no_grad():
        check(fused(x)[0][:, -1], numbers([layer(x)])[0])


def test_the_jax_backend() -> None:
    """These very tests in a process of their own, as Keras has one backend a process."""
    if os.environ["KERAS_BACKEND"] == "jax":
        pytest.skip("this is that process")
    command = [sys.executable, "-m", "pytest", "-q", "-m", "interop", "-p", "no:cacheprovider"]
    env = {**os.environ, "KERAS_BACKEND": "jax"}
    done = subprocess.run(
        [*command, __file__], env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-4000:]
