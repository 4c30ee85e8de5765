# SPDX-License-Identifier: MIT
"""Layers that walk backward in time alone: the second half of a bidirectional layer."""

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import fused_rnn
from fused_rnn import testing

LAYERS: dict[str, Any] = {
    "rnn": fused_rnn.FusedRNN,
    "gru": fused_rnn.FusedGRU,
    "textbook": fused_rnn.FusedGRU,
    "lstm": fused_rnn.FusedLSTM,
    "projected": fused_rnn.FusedLSTM,
}
OPTIONS: dict[str, Any] = {"textbook": {"reset_after": False}, "projected": {"proj_size": 4}}
T, B, INPUTS, H = 7, 5, 3, 9
LENGTHS = torch.tensor([7, 0, 3, 5, 1])


def make(name: str, **options: Any) -> Any:
    torch.manual_seed(0)
    return LAYERS[name](INPUTS, H, direction="reverse", **OPTIONS.get(name, {}), **options)


def pair(name: str, **options: Any) -> tuple[Any, Any]:
    """A layer in reverse, and a bidirectional one whose second half it is."""
    layer = make(name, **options)
    both = LAYERS[name](INPUTS, H, bidirectional=True, **OPTIONS.get(name, {}), **options)
    with torch.no_grad():
        for key, value in layer.named_parameters():
            getattr(both, f"{key}_reverse").copy_(value)
    return layer, both


def states(result: Any) -> tuple[Tensor, ...]:
    return result if isinstance(result, tuple) else (result,)


@pytest.mark.parametrize("backend", ["native", "reference"])
@pytest.mark.parametrize("cut", ["whole", "lengths", "resets"])
@pytest.mark.parametrize("name", LAYERS)
def test_it_is_the_second_half(name: str, cut: str, backend: str) -> None:
    layer, both = pair(name, backend=backend)
    x = torch.randn(T, B, INPUTS)
    given: dict[str, Any] = {
        "whole": {},
        "lengths": {"lengths": LENGTHS},
        "resets": {"resets": torch.rand(T, B) < 0.3},
    }[cut]
    y, last = layer(x, **given)
    expected, finals = both(x, **given)
    assert torch.equal(y, expected.chunk(2, -1)[1])
    for own, other in zip(states(last), states(finals), strict=True):
        assert torch.equal(own, other[1:])


@pytest.mark.parametrize("name", LAYERS)
def test_it_is_a_layer_on_flipped_input(name: str) -> None:
    """Two layers, with states, gradients included."""
    layer = make(name, num_layers=2, batch_first=True)
    forward = LAYERS[name](INPUTS, H, num_layers=2, batch_first=True, **OPTIONS.get(name, {}))
    assert layer.state_dict().keys() == forward.state_dict().keys()
    forward.load_state_dict(layer.state_dict())
    x = torch.randn(B, T, INPUTS)
    h = torch.randn(2, B, layer.proj_size or H)
    hx = (h, torch.randn(2, B, H)) if isinstance(layer, nn.LSTM) else h
    y, last = layer(x, hx)
    z, finals = forward(x.flip(1), hx)
    outputs, expected = (y, *states(last)), (z.flip(1), *states(finals))
    cotangents = [torch.randn_like(output) for output in outputs]
    own = torch.autograd.grad(outputs, list(layer.parameters()), cotangents)
    others = torch.autograd.grad(expected, list(forward.parameters()), cotangents)
    truth, _ = layer.double()(x.double(), _double(hx))
    testing.assert_within_budget(y, truth, z.flip(1))
    for one, other in zip(own, others, strict=True):
        assert torch.equal(one, other)


def _double(hx: Any) -> Any:
    return tuple(h.double() for h in hx) if isinstance(hx, tuple) else hx.double()


def test_packed_input() -> None:
    layer = make("lstm")
    x, lengths = torch.randn(T, 4, INPUTS), torch.tensor([7, 2, 5, 1])
    packed = pack_padded_sequence(x, lengths, enforce_sorted=False)
    y, (h, c) = layer(packed)
    expected, (hn, cn) = layer(x, lengths=lengths)
    assert torch.equal(pad_packed_sequence(y, total_length=T)[0], expected)
    assert torch.equal(h, hn) and torch.equal(c, cn)


def test_gradgradcheck() -> None:
    layer = make("gru").double()
    x = torch.randn(4, 2, INPUTS, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: layer(x)[0], x)
    assert torch.autograd.gradgradcheck(lambda x: layer(x)[0], x)


def test_prepacked_and_quantized() -> None:
    layer, x = make("lstm", num_layers=2).eval(), torch.randn(T, B, INPUTS)
    with torch.no_grad():
        expected, _ = layer(x, lengths=LENGTHS)
        with fused_rnn.prepacked(layer):
            assert torch.equal(layer(x, lengths=LENGTHS)[0], expected)
        small = fused_rnn.quantize(copy.deepcopy(layer), "float16")
        again = small.dequantize()
        assert again.direction == "reverse"
        y, _ = small(x, lengths=LENGTHS)
        in_float32, _ = again(x, lengths=LENGTHS)
        truth, _ = again.double()(x.double(), lengths=LENGTHS)
    testing.assert_within_budget(y, truth, in_float32)
    assert "direction=reverse" in repr(small)


def test_copies_and_a_compiled_graph_walk_backward_too() -> None:
    layer, x = make("gru"), torch.randn(T, B, INPUTS)
    expected, _ = layer(x)
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(twin(x)[0], expected)
    assert torch.equal(torch.compile(layer, fullgraph=True, backend="aot_eager")(x)[0], expected)
    assert repr(layer) == "FusedGRU(3, 9, direction=reverse)"


def test_torch_nn_has_no_such_layer() -> None:
    layer = make("lstm")
    with pytest.raises(ValueError, match="direction: expected 'forward', as torch.nn computes"):
        layer.to_torch()
    with pytest.raises(ValueError, match="the model itself: direction"):
        fused_rnn.unfuse(layer)
    with fused_rnn.use_backend("torch"), pytest.raises(RuntimeError, match="one forward"):
        layer(torch.randn(T, B, INPUTS))


def test_fused_layers_walk_forward() -> None:
    layer = fused_rnn.FusedLSTM.from_torch(nn.LSTM(INPUTS, H))
    assert layer.direction == "forward"
    assert "direction" not in vars(layer.to_torch())


def test_bad_directions() -> None:
    with pytest.raises(ValueError, match="direction: expected 'forward' or 'reverse', got 'back'"):
        fused_rnn.FusedRNN(INPUTS, H, direction="back")
    with pytest.raises(ValueError, match="expected 'forward' beside bidirectional"):
        fused_rnn.FusedGRU(INPUTS, H, bidirectional=True, direction="reverse")
