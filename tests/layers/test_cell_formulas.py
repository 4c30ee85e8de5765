# SPDX-License-Identifier: MIT
"""Normalised, held, dropped and other cells, against the formulas of the papers written out."""

import math
from typing import Any

import pytest
import torch
from cases import need
from torch import Tensor
from twins import tensors
from varied_layers import noted_masks, with_gradients

import fused_rnn
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
    ("LSTM", {"clip": 0.6}),
    ("LSTM", {"clip": 0.8, "peephole": True, "layer_norm": True, "zoneout_cell": 0.3}),
    ("LSTM", {"clip": 0.6, "activation": "relu", "gate_activation": "hard_sigmoid"}),
    ("LSTM", {"recurrent_dropout": 0.4}),
    ("LSTM", {"recurrent_dropout": 0.4, "recurrent_dropout_mode": "update"}),
    ("GRU", {"layer_norm": True}),
    ("GRU", {"clip": 0.6}),
    ("GRU", {"clip": 0.6, "layer_norm": True, "recurrent_dropout": 0.4}),
    ("GRU", {"zoneout": 0.4, "activation": "relu"}),
    ("GRU", {"recurrent_dropout": 0.4, "gate_activation": "hard_sigmoid"}),
    ("GRU", {"recurrent_dropout": 0.4, "recurrent_dropout_mode": "update", "layer_norm": True}),
    ("RNN", {"layer_norm": True, "zoneout": 0.4, "nonlinearity": "relu"}),
    ("RNN", {"recurrent_dropout": 0.4}),
    ("RNN", {"clip": 0.6, "zoneout": 0.4}),
    ("RNN", {"clip": 0.6, "nonlinearity": "relu"}),
]


def hard_sigmoid(x: Tensor) -> Tensor:
    return torch.clip(x / 6 + 0.5, 0, 1)


class ByHand:
    """One layer, one direction, a gate at a time."""

    def __init__(self, kind: str, own: dict[str, Tensor], options: dict[str, Any]) -> None:
        self.kind, self.own, self.options = kind, own, options
        gate = hard_sigmoid if "gate_activation" in options else torch.sigmoid
        relu = "relu" in (options.get("activation"), options.get("nonlinearity"))
        self.act = torch.relu if relu else torch.tanh
        self.gate = lambda a: gate(self.bound(a))
        self.candidate = lambda a: self.act(self.bound(a))

    def bound(self, a: Tensor) -> Tensor:
        clip = self.options.get("clip", math.inf)
        return torch.where(a > clip, clip, torch.where(a < -clip, -clip, a))

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
            g = self.candidate(ins[2] + outs[2]) * candidate
            new_c = f * c + i * g
            o = self.gate(ins[3] + outs[3] + p_o * new_c)
            shown = new_c
            if self.options.get("layer_norm"):
                scale, bias = self.own["weight_ln_cell_l0"], self.own["bias_ln_cell_l0"]
                shown = self.normal(new_c, scale) + bias
            new_h = o * self.act(shown)
        elif self.kind == "GRU":
            r, z = self.gate(ins[0] + outs[0]), self.gate(ins[1] + outs[1])
            n = self.candidate(ins[2] + r * outs[2]) * candidate
            new_h, new_c = (1 - z) * n + z * h, c
        else:
            new_h, new_c = self.candidate(ins[0] + outs[0]), c
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


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> dict[str, Tensor]:
    """The masks of the last call."""
    return noted_masks(monkeypatch)


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
