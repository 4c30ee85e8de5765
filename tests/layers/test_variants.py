# SPDX-License-Identifier: MIT
"""Coupled gates, heads and DropConnect: layers whose weights are made of their parameters."""

import copy
import pickle
from typing import Any

import pytest
import torch
from cases import need
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import _per_sample_grad
from torch.nn.utils.rnn import pack_padded_sequence
from torch.utils._python_dispatch import TorchDispatchMode
from twins import LAYERS, tensors

import fused_rnn
from fused_rnn import explain, extensions, functional
from fused_rnn.backends import choice
from fused_rnn.testing import assert_within_budget

T, B, INPUT, H, HEADS = 7, 4, 5, 12, 3
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


def gradients(outputs: Any, leaves: list[Tensor]) -> list[Tensor]:
    """Of random cotangents, the same for the same shapes."""
    torch.manual_seed(3)
    return list(torch.autograd.grad(outputs, leaves, [torch.randn_like(y) for y in outputs]))


def agree(found: Any, truth: Any, reference: Any, **note: Any) -> None:
    for actual, expected, other in zip(found, truth, reference, strict=True):
        assert_within_budget(actual, expected, other, **note)


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


VARIANTS = {
    "coupled": ("LSTM", {"coupled": True}),
    "heads": ("GRU", {"block_diagonal": HEADS, "reset_after": False}),
    "both": ("LSTM", {"coupled": True, "block_diagonal": 4, "bidirectional": True}),
    "no bias": ("LSTM", {"coupled": True, "block_diagonal": 2, "bias": False}),
    "projected": ("LSTM", {"coupled": True, "proj_size": 3}),
    "dropped": ("RNN", {"recurrent_dropout": 0.4, "recurrent_dropout_mode": "weights"}),
    "normalised": ("LSTM", {"layer_norm": True}),
    "normalised heads": ("GRU", {"layer_norm": True, "block_diagonal": 2, "num_layers": 2}),
    "normalised, coupled": ("LSTM", {"layer_norm": True, "coupled": True, "bias": False}),
    "normalised RNN": ("RNN", {"layer_norm": True, "direction": "reverse"}),
    "held": ("LSTM", {"zoneout": 0.3, "zoneout_cell": 0.2, "num_layers": 2}),
    "held GRU": ("GRU", {"zoneout": 0.3, "bidirectional": True}),
    "state dropped": ("LSTM", {"recurrent_dropout": 0.4}),
    "candidate dropped": ("GRU", {"recurrent_dropout": 0.4, "recurrent_dropout_mode": "update"}),
    "peepholes": ("LSTM", {"peephole": True, "coupled": True, "block_diagonal": 3}),
    "hard gates": ("GRU", {"gate_activation": "hard_sigmoid", "activation": "relu"}),
    "all": (
        "LSTM",
        {
            "layer_norm": True,
            "zoneout": 0.2,
            "zoneout_cell": 0.1,
            "recurrent_dropout": 0.3,
            "recurrent_dropout_mode": "update",
            "peephole": True,
            "gate_activation": "hard_sigmoid",
            "bidirectional": True,
        },
    ),
}
# Those that draw random numbers in training.
RANDOM = ("dropped", "held", "held GRU", "state dropped", "candidate dropped", "all")
# Those that compute in evaluation what torch.nn's layers do.
PLAIN = ("dropped", "state dropped", "candidate dropped")


def make(name: str, backend: str = "auto", **more: Any) -> Any:
    kind, options = VARIANTS[name]
    return getattr(fused_rnn, f"Fused{kind}")(INPUT, H, backend=backend, **options, **more)


@pytest.mark.parametrize("name", VARIANTS)
def test_ragged_batches_are_rows_of_their_own(name: str) -> None:
    layer = make(name).double().eval()
    x = torch.randn(T, B, INPUT, dtype=torch.float64)
    resets = torch.rand(T, B) < 0.3
    y, last = layer(x, lengths=LENGTHS, resets=resets)
    for row, length in enumerate(LENGTHS.tolist()):
        if length:
            own, final = layer(x[:length, row], resets=resets[:length, row])
            assert_within_budget(y[:length, row], own)
            for ours, one in zip(tensors(last), tensors(final), strict=True):
                assert_within_budget(ours[:, row], one)
    lengths = LENGTHS.clamp(min=1)
    packed = pack_padded_sequence(x, lengths, enforce_sorted=False)
    padded, _ = layer(x, lengths=lengths)
    expected = pack_padded_sequence(padded, lengths, enforce_sorted=False)
    assert_within_budget(layer(packed)[0].data, expected.data)


@pytest.mark.parametrize("name", VARIANTS)
def test_derivatives(name: str) -> None:
    layer = make(name).double()

    def outputs(x: Tensor, *weights: Tensor) -> Any:
        torch.manual_seed(5)  # the mask, where there is one
        own = dict(zip(dict(layer.named_parameters()), weights, strict=True))
        y, last = torch.func.functional_call(layer, own, (x,))
        return (y, *tensors(last))

    x = torch.randn(3, 2, INPUT, dtype=torch.float64, requires_grad=True)
    given = (x, *layer.parameters())
    assert torch.autograd.gradcheck(outputs, given, fast_mode=True)
    assert torch.autograd.gradgradcheck(outputs, given, fast_mode=True)


@pytest.mark.parametrize("name", VARIANTS)
def test_all_backends_compute_the_same_from_the_same_seed(name: str) -> None:
    need("native")
    x = torch.randn(T, B, INPUT)
    native = make(name, "native")
    reference = make(name, "reference")
    reference.load_state_dict(native.state_dict())
    double = copy.deepcopy(reference).double()

    def call(layer: Any, x: Tensor) -> list[Tensor]:
        torch.manual_seed(7)
        y, last = layer(x)
        return [y, *tensors(last)]

    if name != "dropped":  # a mask in float64 is another one
        agree(call(native, x), call(double, x.double()), call(reference, x))
    pairs = zip(call(native.double(), x.double()), call(double, x.double()), strict=True)
    for found, expected in pairs:
        assert_within_budget(found, expected)


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


@pytest.mark.parametrize("name", VARIANTS)
def test_in_a_graph(name: str) -> None:
    # All of them are graphs of one function, which would be compiled only so often.
    torch._dynamo.reset()
    layer = make(name).double().eval()
    x = torch.randn(T, B, INPUT, dtype=torch.float64)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    assert_within_budget(compiled(x)[0], layer(x)[0])
    exported = torch.export.export(layer, (x,)).module()
    assert_within_budget(exported(x)[0], layer(x)[0])


@pytest.mark.parametrize("name", VARIANTS)
def test_copies_and_text(name: str) -> None:
    layer = make(name)
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert repr(twin) == repr(layer)
        twin.eval()
        assert torch.equal(
            twin(torch.ones(2, 1, INPUT))[0], layer.eval()(torch.ones(2, 1, INPUT))[0]
        )
    for option, value in VARIANTS[name][1].items():
        if option not in ("bidirectional", "bias", "proj_size", "num_layers"):
            assert f"{option}={value}" in repr(layer)


@pytest.mark.parametrize("name", VARIANTS)
def test_torch_has_no_such_layer(name: str) -> None:
    with pytest.raises(ValueError, match="as torch.nn computes, got"):
        make(name).to_torch()


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


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", [name for name in VARIANTS if name != "projected"])
def test_states_after_every_step(name: str, backend: str) -> None:
    need(backend)
    layer = make(name, backend).double()
    x = torch.randn(T, B, INPUT, dtype=torch.float64)
    resets = torch.rand(T, B) < 0.2
    y, last, every = layer(x, lengths=LENGTHS, resets=resets, return_states=True)
    width = y.size(-1) // H
    shown = torch.cat([tensors(every)[0][:, n] for n in range(-width, 0)], -1)
    assert torch.equal(shown, y)
    if layer.direction == "forward" and width == 1:
        rows = [row for row, length in enumerate(LENGTHS.tolist()) if length]
        for states, final in zip(tensors(every), tensors(last), strict=True):
            for row in rows:
                assert torch.equal(states[LENGTHS[row] - 1, :, row], final[:, row])
    if name in RANDOM:
        layer.eval()
    if layer.direction == "forward" and width == 1:
        every = layer(x, return_states=True)[2]
        for steps in (1, 4, T):
            _, final = layer(x[:steps])
            for states, one in zip(tensors(every), tensors(final), strict=True):
                assert_within_budget(states[steps - 1], one)


@pytest.mark.parametrize("name", ["coupled", "both", "normalised", "held", "all"])
def test_derivatives_of_states_after_every_step(name: str) -> None:
    layer = make(name).double()
    resets = torch.tensor([[False, True], [False, False], [True, False]])

    def cells(x: Tensor, *weights: Tensor) -> Any:
        torch.manual_seed(5)
        own = dict(zip(dict(layer.named_parameters()), weights, strict=True))
        extra = {"return_states": True, "resets": resets}
        _, (_, cn), (_, every) = torch.func.functional_call(layer, own, (x,), extra)
        return every, cn

    x = torch.randn(3, 2, INPUT, dtype=torch.float64, requires_grad=True)
    given = (x, *layer.parameters())
    assert torch.autograd.gradcheck(cells, given, fast_mode=True)
    assert torch.autograd.gradgradcheck(cells, given, fast_mode=True)


def test_states_beside_a_projection() -> None:
    with pytest.raises(
        RuntimeError, match="expected no options beside proj_size, got coupled=True"
    ):
        make("projected")(torch.randn(T, B, INPUT), return_states=True)


@pytest.mark.parametrize("name", VARIANTS)
def test_weights_packed_beforehand(name: str) -> None:
    layer = make(name).double()
    x = torch.randn(1, B, INPUT, dtype=torch.float64)
    for mode in (True, False):
        layer.train(mode)
        torch.manual_seed(2)
        y = layer(x)[0]
        torch.manual_seed(2)
        with torch.inference_mode(), fused_rnn.prepacked(layer):
            assert_within_budget(layer(x)[0], y)
            held = "prepacked" in explain(layer, x)
        able = extensions.why_unavailable() is None
        assert held == (able and name in PLAIN and not mode)


@pytest.mark.parametrize("name", [name for name in VARIANTS if name not in PLAIN])
def test_they_are_not_quantized(name: str) -> None:
    with pytest.raises(ValueError, match="expected one without coupled gates, heads or cells"):
        fused_rnn.quantize(nn.Sequential(make(name).eval()))


@pytest.mark.parametrize("name", [name for name in VARIANTS if name not in RANDOM])
def test_gradients_of_each_row(name: str) -> None:
    layer = make(name).double()
    x = torch.randn(T, B, INPUT, dtype=torch.float64)

    def loss(weights: dict[str, Tensor], x: Tensor) -> Tensor:
        y, _ = torch.func.functional_call(layer, weights, (x.unsqueeze(1),))
        return y.sin().sum()

    weights = {key: p.detach() for key, p in layer.named_parameters()}
    by_vmap = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 1))(weights, x)
    calls = _per_sample_grad.call_for_per_sample_grads
    asking = calls(layer, batch_size=B, loss_reduction="sum", batch_first=False)
    asking(x)[0].sin().sum().backward()
    for key, parameter in layer.named_parameters():
        for row in range(B):
            expected = torch.func.grad(loss)(weights, x[:, row])[key]
            assert_within_budget(by_vmap[key][row], expected)
            assert_within_budget(parameter.grad_sample[row], expected)


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
