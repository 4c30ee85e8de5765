# SPDX-License-Identifier: MIT
"""FusedSLSTM against the paper's formula without its stabiliser, in float64, and its forms."""

import copy
import pickle
from typing import Any

import pytest
import torch
from cases import need
from torch import Tensor
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from varied_layers import gradients

from fused_rnn import FusedSLSTM, explain
from fused_rnn.testing import assert_within_budget

T, B, INPUT, H = 6, 4, 5, 12
BACKENDS = ("native", "reference")


def by_formula(layer: FusedSLSTM, x: Tensor, h: Tensor, c: Tensor, n: Tensor) -> list[Tensor]:
    """Outputs, h, and c over n, by gates that are exp(i~) and sigma(f~) themselves."""
    heads, ys = layer.block_diagonal, []
    blocks = layer.weight_hh_l0.unflatten(0, (4, heads, -1))
    for row in x:
        seen = h.unflatten(-1, (heads, -1))
        recurrent = torch.einsum("bkd,gkud->bgku", seen, blocks).flatten(1)
        own = row @ layer.weight_ih_l0.T + recurrent + layer.bias_ih_l0 + layer.bias_hh_l0
        i, f, z, o = own.chunk(4, -1)
        c = f.sigmoid() * c + i.exp() * z.tanh()
        n = f.sigmoid() * n + i.exp()
        h = o.sigmoid() * c / n
        ys.append(h)
    return [torch.stack(ys), h, c / n]


@pytest.mark.parametrize("heads", [1, 3])
@pytest.mark.parametrize("backend", BACKENDS)
def test_the_formula(backend: str, heads: int) -> None:
    need(backend)
    layer = FusedSLSTM(INPUT, H, block_diagonal=heads, backend=backend).double()
    assert layer.weight_hh_l0.shape == (4 * H, H // heads)
    x = torch.randn(T, B, INPUT, dtype=torch.float64, requires_grad=True)
    h, c = (torch.randn(B, H, dtype=torch.float64, requires_grad=True) for _ in range(2))
    n = (torch.rand(B, H, dtype=torch.float64) + 0.5).requires_grad_()
    m = torch.zeros(B, H, dtype=torch.float64)
    y, (hn, cn, nn, _) = layer(x, tuple(s[None] for s in (h, c, n, m)))
    found = [y, hn[0], (cn / nn)[0]]
    leaves = [x, h, c, n, *layer.parameters()]
    truth = by_formula(layer, x, h, c, n)
    for actual, expected in zip(
        [*found, *gradients(found, leaves)], [*truth, *gradients(truth, leaves)], strict=True
    ):
        assert_within_budget(actual, expected)
    # From nothing.
    zeros = x.new_zeros(B, H)
    assert_within_budget(layer(x)[0], by_formula(layer, x, zeros, zeros, zeros)[0])


@pytest.mark.parametrize("backend", BACKENDS)
def test_states_in_other_units(backend: str) -> None:
    need(backend)
    layer = FusedSLSTM(INPUT, H, backend=backend).double()
    x = torch.randn(T, B, INPUT, dtype=torch.float64)
    h, c, n, m = torch.randn(4, 1, B, H, dtype=torch.float64)
    n = n.abs() + 0.5
    y, _ = layer(x, (h, c, n, m))
    scaled, _ = layer(x, (h, c * 8, n * 8, m - torch.tensor(8.0, dtype=m.dtype).log()))
    assert_within_budget(scaled, y)
    whole, last = layer(x)
    first, state = layer(x[:2])
    second, final = layer(x[2:], state)
    assert_within_budget(torch.cat([first, second]), whole)
    for one, other in zip(final, last, strict=True):
        assert_within_budget(one, other)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_gates_far_from_zero(backend: str, dtype: torch.dtype) -> None:
    need(backend)
    layer = FusedSLSTM(INPUT, H, backend=backend).to(dtype)
    x = 300 * torch.randn(50, B, INPUT, dtype=dtype)
    y, states = layer(x)
    assert bool(y.isfinite().all()) and all(bool(s.isfinite().all()) for s in states)
    # With a mark, a row begins anew beside rows that go on, at an input gate that is all but shut.
    x[20, 1] = -1000.0
    marks = torch.zeros(50, B, dtype=torch.bool)
    marks[20, 1] = True
    y, _ = layer(x, resets=marks)
    assert bool(y.isfinite().all())
    assert_within_budget(y[20:, 1].double(), layer(x[20:, 1])[0].double())


@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True}], ids=str)
def test_derivatives(options: dict[str, Any]) -> None:
    layer = FusedSLSTM(3, 4, block_diagonal=2, **options).double()
    rows = 4 if options else 1
    h, c, n, m = (torch.rand(rows, 2, 4, dtype=torch.float64) + 0.5 for _ in range(4))
    x = torch.randn(3, 2, 3, dtype=torch.float64)
    given = [t.requires_grad_() for t in (x, h, c, n, m, *layer.parameters())]
    lengths, resets = torch.tensor([3, 2]), torch.tensor([[0, 0], [0, 1], [1, 0]]).bool()
    names = list(dict(layer.named_parameters()))

    def outputs(x: Tensor, h: Tensor, c: Tensor, n: Tensor, m: Tensor, *weights: Tensor) -> Any:
        own, extra = dict(zip(names, weights, strict=True)), {"lengths": lengths, "resets": resets}
        y, states = torch.func.functional_call(layer, own, (x, (h, c, n, m)), extra)
        return (y, *states)

    assert torch.autograd.gradcheck(outputs, given, fast_mode=True)
    assert torch.autograd.gradgradcheck(outputs, given, fast_mode=True)


def test_float32() -> None:
    need("native")
    torch.manual_seed(0)
    native = FusedSLSTM(32, 70, 2, bidirectional=True)
    reference = copy.deepcopy(native)
    reference.backend = "reference"
    x = torch.randn(40, 9, 32)

    def call(layer: FusedSLSTM, dtype: torch.dtype) -> list[Tensor]:
        layer.to(dtype)
        given = x.to(dtype).requires_grad_()
        y, (h, c, n, _) = layer(given)
        outputs = [y, h, c / n]
        return [*outputs, *gradients(outputs, [given, *layer.parameters()])]

    found, near = call(native, torch.float32), call(reference, torch.float32)
    for actual, truth, other in zip(found, call(reference, torch.float64), near, strict=True):
        assert_within_budget(actual, truth, other)


def test_ragged_batches_are_rows_of_their_own() -> None:
    layer = FusedSLSTM(INPUT, H, 2, bidirectional=True, block_diagonal=3).double()
    x, lengths = torch.randn(T, B, INPUT, dtype=torch.float64), torch.tensor([6, 2, 4, 1])
    y, last = layer(x, lengths=lengths)
    for row, length in enumerate(lengths.tolist()):
        own, final = layer(x[:length, row])
        assert_within_budget(y[:length, row], own)
        assert not y[length:, row].any()
        for all_rows, one in zip(last, final, strict=True):
            assert_within_budget(all_rows[:, row], one)
    packed, _ = layer(pack_padded_sequence(x, lengths, enforce_sorted=False))
    assert_within_budget(pad_packed_sequence(packed)[0], y)
    turned = FusedSLSTM(INPUT, H, 2, bidirectional=True, block_diagonal=3, batch_first=True)
    turned.double().load_state_dict(layer.state_dict())
    assert_within_budget(turned(x.transpose(0, 1), lengths=lengths)[0].transpose(0, 1), y)
    empty, states = layer(x, lengths=torch.tensor([0, 6, 6, 0]))
    assert not empty[:, 0].any() and not states[1][:, 3].any()


def test_backward_in_time() -> None:
    forward = FusedSLSTM(INPUT, H).double()
    reverse = FusedSLSTM(INPUT, H, direction="reverse").double()
    reverse.load_state_dict(forward.state_dict())
    x = torch.randn(T, B, INPUT, dtype=torch.float64)
    assert_within_budget(reverse(x)[0], forward(x.flip(0))[0].flip(0))


def test_in_a_graph_and_under_transforms() -> None:
    layer = FusedSLSTM(INPUT, H, 2).double()
    x = torch.randn(T, B, INPUT, dtype=torch.float64)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    assert_within_budget(compiled(x)[0], layer(x)[0])
    exported = torch.export.export(layer, (x,)).module()
    assert_within_budget(exported(x)[0], layer(x)[0])
    many = torch.func.vmap(lambda x: layer(x)[0])(torch.stack([x, -x]))
    assert_within_budget(many[1], layer(-x)[0])
    y, tangent = torch.func.jvp(lambda x: layer(x)[0], (x,), (x,))
    by_vjp = torch.func.vjp(lambda x: layer(x)[0], x)[1](torch.ones_like(y))[0]
    assert_within_budget((by_vjp * x).sum(), tangent.sum())


def test_half_types_and_dropout() -> None:
    layer = FusedSLSTM(INPUT, H, 2, dropout=0.5).bfloat16()
    x = torch.randn(T, B, INPUT).bfloat16()
    y, states = layer(x)
    assert y.dtype == states[3].dtype == torch.bfloat16
    assert not torch.equal(y, layer(x)[0]) and torch.equal(layer.eval()(x)[0], layer(x)[0])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(copy.deepcopy(layer).float()(x.float())[0], layer(x)[0])


def test_copies_text_and_backend() -> None:
    layer = FusedSLSTM(INPUT, H, 2, block_diagonal=3, bidirectional=True)
    text = "FusedSLSTM(5, 12, num_layers=2, bidirectional=True, block_diagonal=3)"
    assert repr(layer) == text == repr(pickle.loads(pickle.dumps(layer)))
    assert explain(layer, torch.randn(T, B, INPUT)).split()[0] in BACKENDS
    with pytest.raises(RuntimeError, match="PyTorch's layers have no cells with options"):
        FusedSLSTM(INPUT, H, backend="torch")(torch.randn(T, B, INPUT))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(hidden_size=0), "hidden_size: expected an integer from 1, got 0"),
        (dict(num_layers=1.5), "num_layers: expected an integer from 1, got 1.5"),
        (dict(dropout=2), "dropout: expected a number in 0..1, got 2"),
        (dict(block_diagonal=5), "block_diagonal: expected a divisor of hidden_size 12, got 5"),
        (dict(direction="back"), "direction: expected 'forward' or 'reverse', got 'back'"),
        (dict(direction="reverse", bidirectional=True), "'forward' beside bidirectional"),
        (dict(backend="cudnn"), "backend: expected one of"),
    ],
    ids=str,
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FusedSLSTM(**{"input_size": INPUT, "hidden_size": H, **options})


def test_bad_input() -> None:
    layer, x = FusedSLSTM(INPUT, H), torch.randn(T, B, INPUT)
    h = torch.zeros(1, B, H)
    for hx, message in (
        ((h, h), "slstm expects four hidden states, got 2"),
        ((h, h, h[:, :1], h), r"n: expected the shape of h, \(1, 4, 12\), got \(1, 1, 12\)"),
        ((h[:, :1],) * 4, "hidden"),
        ((h.double(),) * 4, "dtype|Double|float64"),
    ):
        with pytest.raises((RuntimeError, ValueError), match=message):
            layer(x, hx)
    with pytest.raises(RuntimeError, match="input.size"):
        layer(x[..., :3])
    with pytest.raises(ValueError, match="Expected input to be 2D or 3D"):
        layer(x[0, 0])
