# SPDX-License-Identifier: MIT
"""Coupled gates, heads and DropConnect: layers whose weights are made of their parameters."""

from typing import Any

import pytest
import torch
from cases import need
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from twins import LAYERS, tensors
from varied_layers import HEADS, INPUT, B, H, T, agree, gradients, make

import fused_rnn
from fused_rnn import explain, functional
from fused_rnn.backends import choice

LENGTHS = torch.tensor([7, 3, 0, 5])
BACKENDS = ("native", "reference")
GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}


def states(kind: str, rows: int, dtype: torch.dtype = torch.float64) -> Any:
    h, c = torch.randn(2, rows, B, H, dtype=dtype)
    return (h, c) if kind == "LSTM" else h


def as_dense(weight: Tensor, gates: int) -> Tensor:
    """The recurrent matrix (G*H, H) that has a head's block (H/heads, H/heads) for each."""
    blocks = weight.view(gates, HEADS, H // HEADS, H // HEADS)
    return torch.cat([torch.block_diag(*blocks[g]) for g in range(gates)])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True}], ids=str)
@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_heads_are_a_block_diagonal_matrix(
    kind: str, options: dict[str, Any], dtype: torch.dtype, backend: str
) -> None:
    need(backend)
    ours = LAYERS[kind][0](INPUT, H, block_diagonal=HEADS, backend=backend, **options).to(dtype)
    assert ours.weight_hh_l0.shape == (GATES[kind] * H, H // HEADS)
    own = [p.detach().clone().requires_grad_() for p in ours.parameters()]
    x = torch.randn(T, B, INPUT, dtype=dtype)
    hx = states(kind, 2 * len(options) or 1, dtype)

    def call(module: Any, leaves: list[Tensor], dense: bool, dtype: torch.dtype) -> list[Tensor]:
        weights = {
            name: as_dense(w, GATES[kind]) if dense and name.startswith("weight_hh") else w
            for name, w in zip(dict(ours.named_parameters()), leaves, strict=True)
        }
        given = tuple(s.to(dtype) for s in hx) if isinstance(hx, tuple) else hx.to(dtype)
        y, last = torch.func.functional_call(module, weights, (x.to(dtype), given))
        outputs = [y, *tensors(last)]
        return [*outputs, *gradients(outputs, leaves)]

    plain = LAYERS[kind][1](INPUT, H, **options)
    doubles = [p.detach().double().requires_grad_() for p in own]
    truth = call(plain.double(), doubles, True, torch.float64)
    reference = call(plain.to(dtype), own, True, dtype)
    agree(call(ours, own, False, dtype), truth, reference, backend=backend)


def coupled_loop(x: Tensor, h: Tensor, c: Tensor, w_ih: Tensor, w_hh: Tensor, b: Tensor) -> Any:
    ys = []
    for step in x:
        i, g, o = (step @ w_ih.T + h @ w_hh.T + b).chunk(3, -1)
        i = i.sigmoid()
        c = (1 - i) * c + i * g.tanh()
        h = o.sigmoid() * c.tanh()
        ys.append(h)
    return [torch.stack(ys), h, c]


@pytest.mark.parametrize("heads", [1, HEADS])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_coupled_gates(backend: str, dtype: torch.dtype, heads: int) -> None:
    need(backend)
    layer = fused_rnn.FusedLSTM(INPUT, H, coupled=True, block_diagonal=heads, backend=backend).to(
        dtype
    )
    assert layer.weight_ih_l0.shape == (3 * H, INPUT) and layer.bias_hh_l0.shape == (3 * H,)
    x, (h, c) = torch.randn(T, B, INPUT, dtype=dtype), states("LSTM", 1, dtype)

    def by_loop(dtype: torch.dtype) -> list[Tensor]:
        x_, h_, c_ = (t.to(dtype).requires_grad_() for t in (x, h, c))
        w_ih, w_hh, b_ih, b_hh = own = [
            p.detach().to(dtype).requires_grad_() for p in layer.parameters()
        ]
        w_hh = w_hh if heads == 1 else as_dense(w_hh, 3)
        outputs = coupled_loop(x_, h_[0], c_[0], w_ih, w_hh, b_ih + b_hh)
        return [*outputs, *gradients(outputs, [x_, h_, c_, *own])]

    x_, h_, c_ = (t.clone().requires_grad_() for t in (x, h, c))
    y, (hn, cn) = layer(x_, (h_, c_))
    outputs = [y, hn[0], cn[0]]
    found = [*outputs, *gradients(outputs, [x_, h_, c_, *layer.parameters()])]
    agree(found, by_loop(torch.float64), by_loop(dtype), backend=backend)


@pytest.mark.parametrize("kind", LAYERS)
def test_recurrent_weights_are_dropped_in_training(kind: str) -> None:
    options = {"num_layers": 2, "bidirectional": True}
    layer = LAYERS[kind][0](
        INPUT, H, recurrent_dropout=0.3, recurrent_dropout_mode="weights", **options
    )
    x, weights = torch.randn(T, B, INPUT), list(layer.parameters())
    functions: dict[str, Any] = {
        "RNN": functional.rnn,
        "GRU": functional.gru,
        "LSTM": functional.lstm,
    }
    torch.manual_seed(11)
    y, _ = layer(x)
    torch.manual_seed(11)
    dropped = [F.dropout(w, 0.3) if n % 4 == 1 else w for n, w in enumerate(weights)]
    assert torch.equal(y, functions[kind](x, None, dropped, **options)[0])
    assert not torch.equal(y, layer(x)[0])
    layer.eval()
    assert torch.equal(layer(x)[0], functions[kind](x, None, weights, **options)[0])


class Ops(TorchDispatchMode):
    """Names of this package's ops that were called."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "fused_rnn":
            self.names.append(func.name())
        return func(*args, **(kwargs or {}))


def test_heads_run_side_by_side() -> None:
    need("native")
    layer = fused_rnn.FusedLSTM(INPUT, H, block_diagonal=HEADS, bidirectional=True)
    with torch.no_grad(), Ops() as ops:
        layer(torch.randn(T, B, INPUT))
    assert ops.names == ["fused_rnn::native_forward"]


def test_without_options_it_is_torchs_layer() -> None:
    layer = fused_rnn.FusedGRU(INPUT, H, recurrent_dropout_mode="weights", block_diagonal=1)
    assert type(layer.to_torch()) is nn.GRU
    taken = fused_rnn.FusedLSTM.from_torch(nn.LSTM(INPUT, H))
    assert (taken.coupled, taken.block_diagonal, taken.recurrent_dropout) == (False, 1, 0.0)


@pytest.mark.parametrize("coupled", [False, True])
def test_the_forget_gate_begins_open(coupled: bool) -> None:
    torch.manual_seed(0)
    layer = fused_rnn.FusedLSTM(INPUT, H, 2, forget_bias=1.5, coupled=coupled, bidirectional=True)
    for _ in range(2):
        for name, bias in layer.named_parameters():
            gate = bias[:H] if coupled else bias[H : 2 * H]
            value = {"bias_ih": -1.5 if coupled else 1.5, "bias_hh": 0}.get(name[:7])
            assert value is None or (bool((gate == value).all()) and not (bias == value).all())
        layer.reset_parameters()


def test_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    text = explain(make("both", "reference"), torch.randn(T, B, INPUT))
    assert text.startswith("reference runs this")
    asked: list[Any] = []
    monkeypatch.setattr(choice, "explain", lambda query, requested: asked.append(query) or "")
    explain(make("both"), torch.randn(T, B, INPUT))
    assert asked[0].reverse == (0, 0, 0, 0, 1, 1, 1, 1) and asked[0].shape == (T, B, H // 4)
    layer = fused_rnn.FusedGRU(INPUT, H, block_diagonal=2, backend="torch")
    with pytest.raises(RuntimeError, match="PyTorch runs one forward recurrence or both"):
        layer(torch.randn(T, B, INPUT))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(block_diagonal=0), "block_diagonal: expected a number of heads from 1, got 0"),
        (dict(block_diagonal=True), "block_diagonal: expected a number of heads from 1, got True"),
        (dict(block_diagonal=5), "expected a divisor of hidden_size 12, got 5"),
        (dict(block_diagonal=2, proj_size=3), "block_diagonal: expected 1 beside proj_size, got 2"),
        (dict(recurrent_dropout=1.5), r"recurrent_dropout: expected a number in 0..1, got 1.5"),
        (dict(recurrent_dropout="a"), r"recurrent_dropout: expected a number in 0..1, got 'a'"),
        (
            dict(recurrent_dropout_mode="all"),
            r"mode: expected one of \('variational', 'update', 'we",
        ),
        (dict(forget_bias=1.0, bias=False), "forget_bias: expected None beside bias=False"),
    ],
    ids=str,
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fused_rnn.FusedLSTM(INPUT, H, **options)


def test_coupled_is_a_bool() -> None:
    with pytest.raises(TypeError, match="coupled: expected a bool, got 1"):
        fused_rnn.FusedLSTM(INPUT, H, coupled=1)
