# SPDX-License-Identifier: MIT
"""Normalised, held, dropped and other cells, against the formulas of the papers written out."""

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from cases import need
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_sequence
from twins import tensors

import fused_rnn
from fused_rnn import explain, extensions
from fused_rnn._call import varied
from fused_rnn.backends import choice
from fused_rnn.backends.backend import Query
from fused_rnn.testing import assert_within_budget

T, B, INPUT, H = 6, 5, 4, 10
BACKENDS = ("native", "reference")
GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
CELLS: list[tuple[str, dict[str, Any]]] = [
    ("LSTM", {"layer_norm": True}),
    ("LSTM", {"layer_norm": True, "layer_norm_eps": 0.1, "bias": False}),
    ("LSTM", {"peephole": True}),
    ("LSTM", {"peephole": True, "layer_norm": True, "zoneout": 0.4, "zoneout_cell": 0.3}),
    ("LSTM", {"zoneout": 0.4}),
    ("LSTM", {"zoneout_cell": 0.4}),
    ("LSTM", {"activation": "relu", "gate_activation": "hard_sigmoid"}),
    ("LSTM", {"recurrent_dropout": 0.4}),
    ("LSTM", {"recurrent_dropout": 0.4, "recurrent_dropout_mode": "update"}),
    ("GRU", {"layer_norm": True}),
    ("GRU", {"zoneout": 0.4, "activation": "relu"}),
    ("GRU", {"recurrent_dropout": 0.4, "gate_activation": "hard_sigmoid"}),
    ("GRU", {"recurrent_dropout": 0.4, "recurrent_dropout_mode": "update", "layer_norm": True}),
    ("RNN", {"layer_norm": True, "zoneout": 0.4, "nonlinearity": "relu"}),
    ("RNN", {"recurrent_dropout": 0.4}),
]


def hard_sigmoid(x: Tensor) -> Tensor:
    return torch.clip(x / 6 + 0.5, 0, 1)


class ByHand:
    """One layer, one direction, a gate at a time."""

    def __init__(self, kind: str, own: dict[str, Tensor], options: dict[str, Any]) -> None:
        self.kind, self.own, self.options = kind, own, options
        self.gate = hard_sigmoid if "gate_activation" in options else torch.sigmoid
        relu = "relu" in (options.get("activation"), options.get("nonlinearity"))
        self.act = torch.relu if relu else torch.tanh

    def part(self, g: int, row: Tensor, side: str) -> Tensor:
        gate = slice(g * H, (g + 1) * H)
        a = row @ self.own[f"weight_{side}_l0"][gate].T
        if self.options.get("layer_norm"):
            a = self.normal(a, self.own[f"weight_ln_{side}_l0"][gate])
        bias = self.own.get(f"bias_{side}_l0")
        return a if bias is None else a + bias[gate]

    def normal(self, a: Tensor, scale: Tensor) -> Tensor:
        eps = self.options.get("layer_norm_eps", 1e-5)
        centred = a - a.mean(-1, keepdim=True)
        return centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt() * scale

    def step(
        self, x: Tensor, h: Tensor, c: Tensor, hold: Any, hold_cell: Any, keep: Any
    ) -> tuple[Tensor, Tensor]:
        dropped, candidate = h, 1.0
        if keep is not None:
            factor = keep.to(h.dtype) / (1 - self.options["recurrent_dropout"])
            if self.options.get("recurrent_dropout_mode") == "update":
                candidate = factor
            else:
                dropped = h * factor
        ins = [self.part(g, x, "ih") for g in range(GATES[self.kind])]
        outs = [self.part(g, dropped, "hh") for g in range(GATES[self.kind])]
        if self.kind == "LSTM":
            p_i, p_f, p_o = self.own.get("weight_peephole_l0", x.new_zeros(3 * H)).chunk(3)
            i = self.gate(ins[0] + outs[0] + p_i * c)
            f = self.gate(ins[1] + outs[1] + p_f * c)
            g = self.act(ins[2] + outs[2]) * candidate
            new_c = f * c + i * g
            o = self.gate(ins[3] + outs[3] + p_o * new_c)
            shown = new_c
            if self.options.get("layer_norm"):
                scale, bias = self.own["weight_ln_cell_l0"], self.own["bias_ln_cell_l0"]
                shown = self.normal(new_c, scale) + bias
            new_h = o * self.act(shown)
        elif self.kind == "GRU":
            r, z = self.gate(ins[0] + outs[0]), self.gate(ins[1] + outs[1])
            n = self.act(ins[2] + r * outs[2]) * candidate
            new_h, new_c = (1 - z) * n + z * h, c
        else:
            new_h, new_c = self.act(ins[0] + outs[0]), c
        held = self.hold(hold, "zoneout")
        held_cell = self.hold(hold_cell, "zoneout_cell")
        return held * h + (1 - held) * new_h, held_cell * c + (1 - held_cell) * new_c

    def hold(self, mask: Any, name: str) -> Any:
        return self.options.get(name, 0.0) if mask is None else mask.to(torch.float64)

    def run(self, x: Tensor, h: Tensor, c: Tensor, masks: dict[str, Tensor]) -> list[Tensor]:
        ys = []
        for t in range(len(x)):
            at = {name: mask[t, :, 0] for name, mask in masks.items()}
            named = (at.get(name) for name in ("hold", "hold_cell", "keep"))
            h, c = self.step(x[t], h, c, *named)
            ys.append(h)
        return [torch.stack(ys), h, *([c] if self.kind == "LSTM" else [])]


def with_gradients(outputs: Sequence[Tensor], leaves: Sequence[Tensor]) -> list[Tensor]:
    """The outputs, and gradients of random cotangents, the same for the same shapes."""
    torch.manual_seed(3)
    cotangents = [torch.randn(y.shape, dtype=torch.float64).to(y.dtype) for y in outputs]
    return [*outputs, *torch.autograd.grad(outputs, leaves, cotangents)]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> dict[str, Tensor]:
    """The masks of the last call, by their names."""
    found: dict[str, Tensor] = {}
    draw = varied._drawn

    def noted(*args: Any) -> Any:
        masks, options = draw(*args)
        found.clear()
        found.update(masks)
        return masks, options

    monkeypatch.setattr(varied, "_drawn", noted)
    return found


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("kind", "options"), CELLS, ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_the_formulas(
    kind: str, options: dict[str, Any], training: bool, backend: str, drawn: dict[str, Tensor]
) -> None:
    need(backend)
    torch.manual_seed(0)
    layer = getattr(fused_rnn, f"Fused{kind}")(INPUT, H, backend=backend, **options).double()
    layer.train(training)
    for parameter in layer.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    x, h, c = torch.randn(T, B, INPUT), torch.randn(1, B, H), torch.randn(1, B, H)
    x, h, c = leaves = [t.double().requires_grad_() for t in (x, h, c)]
    states = leaves[1:] if kind == "LSTM" else leaves[1:2]
    torch.manual_seed(1)
    y, last = layer(x, (h, c) if kind == "LSTM" else h)
    outputs = [y, *(state[0] for state in tensors(last))]
    asked = [x, *states, *layer.parameters()]
    found = with_gradients(outputs, asked)
    assert bool(drawn) == (training and any("zoneout" in o or "dropout" in o for o in options))
    by_hand = ByHand(kind, dict(layer.named_parameters()), options)
    truth = with_gradients(by_hand.run(x, h[0], c[0], drawn), asked)
    for actual, expected in zip(found, truth, strict=True):
        assert_within_budget(actual, expected, backend=backend)


def test_masks(drawn: dict[str, Tensor]) -> None:
    layer = fused_rnn.FusedLSTM(
        INPUT, 1000, zoneout=0.25, zoneout_cell=0.75, recurrent_dropout=0.125
    )
    x = torch.randn(T, B, INPUT)
    layer(x)
    # Marks of T * B * H = 30,000, and one of B * H = 5,000: five standard deviations.
    for name, chance, count in (("hold", 0.25, 30_000), ("hold_cell", 0.75, 30_000)):
        share = drawn[name].float().mean().item()
        assert abs(share - chance) < 5 * math.sqrt(chance * (1 - chance) / count)
    keep = drawn["keep"]
    assert keep.dtype == torch.bool and bool((keep == keep[:1]).all())
    assert abs(keep[0].float().mean().item() - 0.875) < 5 * math.sqrt(0.125 * 0.875 / 5_000)
    before = {name: mask.clone() for name, mask in drawn.items()}
    layer(x)
    assert not any(torch.equal(before[name], mask) for name, mask in drawn.items())
    layer.eval()(x)
    assert not drawn


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_a_mark_begins_a_new_mask(direction: str, drawn: dict[str, Tensor]) -> None:
    layer = fused_rnn.FusedGRU(INPUT, 64, recurrent_dropout=0.5, direction=direction)
    resets = torch.zeros(T, 2, dtype=torch.bool)
    resets[2, 0] = resets[5, 0] = True
    layer(torch.randn(T, 2, INPUT), resets=resets)
    keep = drawn["keep"][:, :, 0]
    same = [[torch.equal(keep[t, b], keep[t - 1, b]) for t in range(1, T)] for b in range(2)]
    assert same == [[True, False, True, True, False], [True] * 5]


@pytest.mark.parametrize("chance", [0.0, 1.0])
@pytest.mark.parametrize("mode", ["variational", "update"])
def test_all_or_nothing(mode: str, chance: float) -> None:
    layer = fused_rnn.FusedLSTM(
        INPUT, H, recurrent_dropout=chance, recurrent_dropout_mode=mode, zoneout=chance
    )
    x, state = torch.randn(T, B, INPUT), tuple(torch.randn(2, 1, B, H))
    y, (hn, _) = layer(x, state)
    if chance:
        assert torch.equal(y, state[0].expand_as(y)) and torch.equal(hn, state[0])
    else:
        plain = torch.nn.LSTM(INPUT, H)
        plain.load_state_dict(layer.state_dict())
        truth = plain.double()(x.double(), tuple(s.double() for s in state))[0]
        assert_within_budget(y, truth, plain.float()(x, state)[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_types(kind: str, dtype: torch.dtype) -> None:
    need("native")
    options = {"layer_norm": True, "zoneout": 0.2, "bidirectional": True}
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


@pytest.mark.parametrize("options", [{"layer_norm": True, "peephole": True}, {}], ids=str)
def test_coupled_gates_are_one_gate(options: dict[str, Any]) -> None:
    coupled = fused_rnn.FusedLSTM(INPUT, H, coupled=True, zoneout_cell=0.3, **options).double()
    for parameter in coupled.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    whole = fused_rnn.FusedLSTM(INPUT, H, zoneout_cell=0.3, **options).double()
    for name, parameter in coupled.named_parameters():
        i, *others = parameter.data.chunk(2 if "peephole" in name else 3)
        f = i if "ln" in name else -i
        value = parameter.data if "cell" in name else torch.cat([i, f, *others])
        whole.get_parameter(name).data = value
    x = torch.randn(T, B, INPUT, dtype=torch.float64)
    assert_within_budget(coupled.eval()(x)[0], whole.eval()(x)[0])


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
    options = varied.CellOptions("lstm", (0,))
    with torch.no_grad():
        whole = varied.VARIED.forward(*varied.CellInputs(gates, **named), *options, False)[0]
        for row in range(13):
            part = gates[:, row : row + 1].contiguous()
            one = varied.VARIED.forward(*varied.CellInputs(part, **named), *options, False)[0]
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


@pytest.mark.parametrize("name", ["layer_norm", "peephole", "zoneout"])
def test_forward_mode_and_vmap(name: str) -> None:
    options: dict[str, Any] = {name: 0.3 if name == "zoneout" else True}
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
        ("RNN", dict(recurrent_dropout_mode="update"), "one of .'variational', 'weights'., got"),
        ("LSTM", dict(layer_norm=True, proj_size=2), "layer_norm: expected False beside proj_size"),
        (
            "GRU",
            dict(zoneout=0.5, reset_after=False),
            "reset_after: expected True beside zoneout=0.5, got False",
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
