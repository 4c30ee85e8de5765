# SPDX-License-Identifier: MIT
"""Types, parameters, transforms and errors of cells with options."""

import math
from typing import Any

import pytest
import torch
from cases import need
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_sequence
from twins import tensors
from varied_layers import with_gradients

import fused_rnn
from fused_rnn import explain, extensions
from fused_rnn.backends import choice
from fused_rnn.backends.backend import Query
from fused_rnn.ops import VARIED, CellInputs, CellOptions
from fused_rnn.testing import assert_within_budget

T, B, INPUT, H = 6, 5, 4, 10
BACKENDS = ("native", "reference")
NATIVE = VARIED["native"]
GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_types(kind: str, dtype: torch.dtype) -> None:
    need("native")
    options = {"layer_norm": True, "zoneout": 0.2, "clip": 0.5, "bidirectional": True}
    torch.manual_seed(0)
    native, reference = (
        getattr(fused_rnn, f"Fused{kind}")(16, 48, backend=backend, **options).to(dtype)
        for backend in BACKENDS
    )
    # With scales of 1 gradients grow from step to step, and rounding errors with them.
    native.load_state_dict(
        {k: w * 0.3 if "_ln_" in k else w for k, w in native.state_dict().items()}
    )
    reference.load_state_dict(native.state_dict())
    x = torch.randn(12, 8, 16).to(dtype)

    def call(layer: Any, dtype: torch.dtype) -> list[Tensor]:
        layer.to(dtype)
        given = x.to(dtype).requires_grad_()
        torch.manual_seed(5)
        y, last = layer(given)
        return with_gradients([y, *tensors(last)], [given, *layer.parameters()])

    found, near, truth = (
        call(layer, kind)
        for layer, kind in ((native, dtype), (reference, dtype), (reference, torch.float64))
    )
    for actual, expected, other in zip(found, truth, near, strict=True):
        assert actual.dtype == dtype
        assert_within_budget(actual, expected, other)


def test_autocast() -> None:
    layer = fused_rnn.FusedGRU(INPUT, H, layer_norm=True)
    x = torch.randn(T, B, INPUT)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, _ = layer(x)
    assert y.dtype == torch.bfloat16
    half = fused_rnn.FusedGRU(INPUT, H, layer_norm=True).bfloat16()
    half.load_state_dict(layer.state_dict())
    assert torch.equal(y, half(x.bfloat16())[0])


def test_parameters() -> None:
    layer = fused_rnn.FusedLSTM(INPUT, H, 2, layer_norm=True, peephole=True, bidirectional=True)
    own = ("weight_ln_ih", "weight_ln_hh", "weight_ln_cell", "bias_ln_cell", "weight_peephole")
    sizes = dict(zip(own, (4 * H, 4 * H, H, H, 3 * H), strict=True))
    shapes = {name: tuple(p.shape) for name, p in layer.named_parameters()}
    for suffix in ("_l0", "_l0_reverse", "_l1", "_l1_reverse"):
        assert {name: shapes[name + suffix] for name in own} == {
            name: (size,) for name, size in sizes.items()
        }
    layer.reset_parameters()
    assert bool((layer.weight_ln_ih_l1 == 1).all()) and bool((layer.bias_ln_cell_l0 == 0).all())
    assert len(layer.all_weights) == 4 and len(layer.all_weights[0]) == 9
    coupled = fused_rnn.FusedLSTM(INPUT, H, layer_norm=True, peephole=True, coupled=True)
    assert coupled.weight_ln_hh_l0.shape == (3 * H,)
    assert coupled.weight_peephole_l0.shape == (2 * H,)


def test_what_stands_past_a_row() -> None:
    layer = fused_rnn.FusedLSTM(INPUT, H, layer_norm=True, bidirectional=True)
    lengths = torch.tensor([6, 2, 0, 4, 1])
    x = torch.randn(T, B, INPUT)
    grads = []
    for filler in (0.0, math.nan):
        for row, length in enumerate(lengths.tolist()):
            x[length:, row] = filler
        given = x.clone().requires_grad_()
        y, _ = layer(given, lengths=lengths)
        y.square().sum().backward()
        own = [p.grad for p in layer.parameters()]
        grads.append([y, given.grad, *own])
        layer.zero_grad(set_to_none=True)
    for zeros, nans in zip(*grads, strict=True):
        assert torch.equal(zeros, nans)


def test_rows_do_not_depend_on_their_batch() -> None:
    need("native")
    layer = fused_rnn.FusedLSTM(INPUT, 65, layer_norm=True, peephole=True)
    x = torch.randn(T, 13, INPUT)
    y, _ = layer(x)
    # But for PyTorch's product of the input, whose sums may differ in their order.
    gates = F.linear(x, layer.weight_ih_l0).unsqueeze(2)
    named = dict(
        h0=None,
        c0=None,
        w_hh=layer.weight_hh_l0[None],
        b_hh=layer.bias_hh_l0[None],
        x_scale=layer.weight_ln_ih_l0[None],
        x_bias=layer.bias_ih_l0[None],
        h_scale=layer.weight_ln_hh_l0[None],
        c_scale=layer.weight_ln_cell_l0[None],
        c_bias=layer.bias_ln_cell_l0[None],
        peephole=layer.weight_peephole_l0[None],
    )
    options = CellOptions("lstm", (0,))
    with torch.no_grad():
        whole = NATIVE.forward(*CellInputs(gates, **named), *options, False)[0]
        for row in range(13):
            part = gates[:, row : row + 1].contiguous()
            one = NATIVE.forward(*CellInputs(part, **named), *options, False)[0]
            assert torch.equal(one[:, 0], whole[:, row])
    assert torch.equal(whole[:, :, 0], y)


def test_sequences_of_their_own() -> None:
    layer = fused_rnn.FusedGRU(INPUT, H, 2, layer_norm=True, bidirectional=True).double()
    rows = [torch.randn(length, INPUT, dtype=torch.float64) for length in (3, 6, 1)]
    packed, hn = layer(pack_sequence(rows, enforce_sorted=False))
    for place, row in enumerate(rows):
        y, last = layer(row)
        assert_within_budget(hn[:, place], last)
        assert_within_budget(torch.nn.utils.rnn.unpack_sequence(packed)[place], y)


def test_states_of_a_gru_at_every_step() -> None:
    layer = fused_rnn.FusedGRU(INPUT, H, 2, layer_norm=True)
    y, _, every = layer(torch.randn(T, B, INPUT), return_states=True)
    assert torch.equal(every[:, 1], y)


@pytest.mark.parametrize("name", ["layer_norm", "peephole", "zoneout", "clip"])
def test_forward_mode_and_vmap(name: str) -> None:
    options: dict[str, Any] = {name: 0.3 if name in ("zoneout", "clip") else True}
    layer = fused_rnn.FusedLSTM(INPUT, H, **options).double().eval()
    x, direction = torch.randn(2, T, B, INPUT, dtype=torch.float64)

    def outputs(x: Tensor) -> Tensor:
        return layer(x)[0]

    y, tangent = torch.func.jvp(outputs, (x,), (direction,))
    by_vjp = torch.func.vjp(outputs, x)[1](torch.ones_like(y))[0]
    assert_within_budget((by_vjp * direction).sum(), tangent.sum())
    many = torch.func.vmap(outputs)(torch.stack([x, direction]))
    assert_within_budget(many[1], outputs(direction))
    leaf = x.clone().requires_grad_()
    y = outputs(leaf)
    cotangents = torch.randn(3, *y.shape, dtype=torch.float64)
    batched = torch.autograd.grad(y, leaf, cotangents, is_grads_batched=True, retain_graph=True)[0]
    for at in range(3):
        expected = torch.autograd.grad(y, leaf, cotangents[at], retain_graph=True)[0]
        assert_within_budget(batched[at], expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("gate", ["sigmoid", "hard_sigmoid"])
@pytest.mark.parametrize("kind", GATES)
def test_gradients_at_the_bounds_and_beyond(kind: str, gate: str, dtype: torch.dtype) -> None:
    need("native")
    width, options = GATES[kind] * H, {} if kind == "RNN" else {"gate_activation": gate}
    given = torch.randint(-3, 4, (1, B, width)) / 4
    h, c = torch.randn(2, 1, B, H).to(dtype)

    def gradient(backend: str, dtype: torch.dtype) -> Tensor:
        layer = getattr(fused_rnn, f"Fused{kind}")(width, H, clip=0.5, backend=backend, **options)
        # Gates are activated at what is given; to the n of every second unit r adds something.
        weights = {name: torch.zeros_like(w) for name, w in layer.state_dict().items()}
        weights["weight_ih_l0"] = torch.eye(width)
        weights["bias_hh_l0"][-H::2] = 0.25 if kind == "GRU" else 0.0
        layer.load_state_dict(weights)
        state = tuple(s.to(dtype) for s in (h, c))
        x = given.to(dtype).requires_grad_()
        y, _ = layer.to(dtype)(x, state if kind == "LSTM" else state[0])
        return torch.autograd.grad(y.square().sum(), x)[0]

    found = gradient("native", dtype)
    assert not found[given.abs() > 0.5].any() and found[given.abs() == 0.5].any()
    assert_within_budget(found, gradient("reference", torch.float64), gradient("reference", dtype))


def test_without_bounds_or_far_from_them_the_bits_are_the_same() -> None:
    x = torch.randn(T, B, INPUT, requires_grad=True)
    found = []
    for clip in (None, 1e300):
        layer = fused_rnn.FusedLSTM(INPUT, H, peephole=True, clip=clip)
        torch.manual_seed(1)
        layer.reset_parameters()
        y, _ = layer(x)
        found.append([y, *torch.autograd.grad(y.square().sum(), [x, *layer.parameters()])])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_training_in_a_graph() -> None:
    need("native")
    layer = fused_rnn.FusedLSTM(INPUT, H, layer_norm=True, peephole=True)
    compiled = torch.compile(layer, fullgraph=True)
    x = torch.randn(T, B, INPUT)
    results = []
    for call in (layer, compiled):
        given = x.clone().requires_grad_()
        y, (hn, cn) = call(given)
        grads = torch.autograd.grad(
            y.square().sum() + hn.sum() + cn.sum(), [given, *layer.parameters()]
        )
        results.append([y, hn, cn, *grads])
    double = fused_rnn.FusedLSTM(INPUT, H, layer_norm=True, peephole=True).double()
    double.load_state_dict(layer.state_dict())
    given = x.double().requires_grad_()
    y, (hn, cn) = double(given)
    grads = torch.autograd.grad(
        y.square().sum() + hn.sum() + cn.sum(), [given, *double.parameters()]
    )
    for eager, graph, truth in zip(*results, [y, hn, cn, *grads], strict=True):
        assert_within_budget(graph, truth, eager)
    random = fused_rnn.FusedGRU(INPUT, H, recurrent_dropout=0.5, zoneout=0.2)
    y, _ = torch.compile(random, fullgraph=True)(x)
    y.sum().backward()
    assert all(p.grad is not None for p in random.parameters())


def test_which_backend() -> None:
    layer = fused_rnn.FusedLSTM(INPUT, H, layer_norm=True)
    x = torch.randn(T, B, INPUT)
    built = extensions.why_unavailable() is None
    assert explain(layer, x).startswith("native runs this" if built else "reference runs this")
    reasons = {
        name: choice.BACKENDS[name].why_not(
            Query("lstm", torch.float32, "cuda", varied=True, device_index=0)
        )
        for name in ("native", "triton", "torch", "reference")
    }
    assert reasons == {
        "native": "its kernels for cells with options run on the CPU alone",
        "triton": "it has no cells with options",
        "torch": "PyTorch's layers have no cells with options",
        "reference": None,
    }
    with pytest.raises(RuntimeError, match="PyTorch's layers have no cells with options"):
        fused_rnn.FusedLSTM(INPUT, H, layer_norm=True, backend="torch")(x)


def test_options_may_change() -> None:
    layer = fused_rnn.FusedLSTM(INPUT, H).eval()
    x = torch.randn(T, B, INPUT)
    plain = layer(x)[0]
    layer.zoneout = 0.5
    held = layer(x)[0]
    assert not torch.equal(plain, held)
    layer.zoneout = 0.0
    assert torch.equal(layer(x)[0], plain) and type(layer.to_torch()) is torch.nn.LSTM


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("LSTM", dict(layer_norm=1), "layer_norm: expected a bool, got 1"),
        ("LSTM", dict(peephole="yes"), "peephole: expected a bool, got 'yes'"),
        ("GRU", dict(zoneout=-0.1), "zoneout: expected a number in 0..1, got -0.1"),
        ("LSTM", dict(zoneout_cell=math.nan), "zoneout_cell: expected a number in 0..1, got nan"),
        ("RNN", dict(layer_norm_eps=-1), "layer_norm_eps: expected a number from 0, got -1"),
        ("GRU", dict(activation="gelu"), r"activation: expected one of \('tanh', 'relu'\), got"),
        ("LSTM", dict(gate_activation="relu"), r"expected one of \('sigmoid', 'hard_sigmoid'\)"),
        ("LSTM", dict(clip=0), "clip: expected a positive number or None, got 0"),
        ("GRU", dict(clip=-1.0), "clip: expected a positive number or None, got -1.0"),
        ("RNN", dict(clip=math.inf), "clip: expected a positive number or None, got inf"),
        ("LSTM", dict(clip=math.nan), "clip: expected a positive number or None, got nan"),
        ("GRU", dict(clip=True), "clip: expected a positive number or None, got True"),
        ("RNN", dict(clip="a"), "clip: expected a positive number or None, got 'a'"),
        ("LSTM", dict(clip=1.0, proj_size=2), "clip: expected None beside proj_size, got 1.0"),
        ("RNN", dict(recurrent_dropout_mode="update"), "one of .'variational', 'weights'., got"),
        ("LSTM", dict(layer_norm=True, proj_size=2), "layer_norm: expected False beside proj_size"),
        (
            "GRU",
            dict(zoneout=0.5, reset_after=False),
            "reset_after: expected True beside zoneout=0.5, got False",
        ),
        (
            "GRU",
            dict(clip=1.0, reset_after=False),
            "reset_after: expected True beside clip=1.0, got False",
        ),
    ],
    ids=str,
)
def test_bad_options(kind: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        getattr(fused_rnn, f"Fused{kind}")(INPUT, H, **options)


def test_missing_options() -> None:
    for kind, name in (("GRU", "peephole"), ("GRU", "zoneout_cell"), ("RNN", "activation")):
        with pytest.raises(TypeError, match=name):
            getattr(fused_rnn, f"Fused{kind}")(INPUT, H, **{name: 0.5})
