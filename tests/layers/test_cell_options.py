# SPDX-License-Identifier: MIT
"""Masks, types, parameters, transforms and errors of cells with options."""

import itertools
import math
from typing import Any

import pytest
import torch
from cases import need
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_sequence
from twins import tensors
from varied_layers import noted_masks, with_gradients

import fused_rnn
from fused_rnn import explain, extensions
from fused_rnn.backends import choice
from fused_rnn.backends.backend import Query
from fused_rnn.backends.reference.draws import philox
from fused_rnn.ops import VARIED, CellInputs, CellOptions
from fused_rnn.testing import assert_within_budget

T, B, INPUT, H = 6, 5, 4, 10
BACKENDS = ("native", "reference")
NATIVE = VARIED["native"]
GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> dict[str, Tensor]:
    """The masks of the last call."""
    return noted_masks(monkeypatch)


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


def test_the_generator() -> None:
    # Known answers, of counters and keys of all zeros and all ones.
    for word, answer in (
        (0, (0x5F6FB709, 0x0D893F64, 0x4F121F81, 0x4F730A48)),
        (0xFFFFFFFF, (0x5207DDC2, 0x45165E59, 0x4D8EE751, 0x8C52F662)),
    ):
        counter = (torch.tensor(word),) * 4
        found = philox(counter, torch.tensor(-1 if word else 0))
        assert tuple(int(one) for one in found) == answer


def test_a_mask_is_of_its_row_and_place(drawn: dict[str, Tensor]) -> None:
    """What is drawn depends on a row's seed alone; recurrences, steps and uses differ."""
    layer = fused_rnn.FusedLSTM(
        INPUT, 64, bidirectional=True, zoneout=0.5, zoneout_cell=0.5, recurrent_dropout=0.5,
        recurrent_dropout_mode="update",
    )  # fmt: skip
    x = torch.randn(T, B, INPUT)
    torch.manual_seed(3)
    layer(x)
    longer = {name: mask.clone() for name, mask in drawn.items()}
    torch.manual_seed(3)
    layer(x[:4])
    assert all(torch.equal(mask, longer[name][:4]) for name, mask in drawn.items())
    every = itertools.product(drawn.values(), range(4), range(B), range(2))
    places = [mask[t, b, n] for mask, t, b, n in every]
    assert len({tuple(place.tolist()) for place in places}) == len(places)


@pytest.mark.parametrize("mode", ["variational", "update"])
@pytest.mark.parametrize("batch", [1, 64])
def test_training_keeps_a_seed_for_each_row_and_no_masks(mode: str, batch: int) -> None:
    need("native")
    kept = {}
    for chance in (0.0, 0.3):
        layer = fused_rnn.FusedLSTM(
            INPUT, 32, layer_norm=True, zoneout=chance, recurrent_dropout=chance,
            recurrent_dropout_mode=mode,
        )  # fmt: skip
        saved: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t, saved=saved: saved.append(t.numel() * t.element_size()) or t, lambda t: t
        ):
            layer(torch.randn(20, batch, INPUT))
        kept[chance] = sum(saved)
    assert kept[0.3] - kept[0.0] == 8 * batch


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
