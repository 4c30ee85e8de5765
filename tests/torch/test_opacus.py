# SPDX-License-Identifier: MIT
"""Per-sample gradients by the hooks of opacus: for a loss of outputs, of final states, of both."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from grad_samples import GradSampleModule
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence
from twins import ALL, CELLS, DOUBLE, LAYERS, assert_same, state, tensors

# PyTorch's, where a module's input needs no gradient.
pytestmark = pytest.mark.filterwarnings("ignore:Full backward hook is firing")

B = 4
PARTS: dict[str, Callable[[list[Tensor]], list[Tensor]]] = {
    "output": lambda found: found[:1],
    "last": lambda found: found[-1:],
    "all": lambda found: found,
}


class Model(nn.Module):
    """A recurrence over a layer that opacus knows, or over an input that needs no gradient."""

    def __init__(self, kind: str, part: str = "all", deep: bool = True, **options: Any) -> None:
        super().__init__()
        self.part = part
        self.before = nn.Linear(3, 3, dtype=DOUBLE) if deep else nn.Identity()
        self.inner = ALL[kind][0](3, 5, dtype=DOUBLE, **options)

    def forward(self, x: Tensor, *args: Any) -> list[Tensor]:
        return PARTS[self.part](tensors(self.inner(self.before(x), *args)))


def loss(found: Any) -> Tensor:
    return sum(t.sin().sum() for t in tensors(found))


def one_by_one(model: nn.Module, calls: list[Callable[[], Any]]) -> list[Tensor]:
    rows = [
        torch.autograd.grad(loss(call()), list(model.parameters()), materialize_grads=True)
        for call in calls
    ]
    return [torch.stack(grads) for grads in zip(*rows, strict=True)]


def check(model: nn.Module, expected: list[Tensor]) -> None:
    for (name, weight), rows in zip(model.named_parameters(), expected, strict=True):
        assert_same(weight.grad_sample, rows, name)
        assert_same(weight.grad, rows.sum(0), name)


@pytest.mark.parametrize("functorch", [False, True], ids=["hooks", "functorch"])
@pytest.mark.parametrize("deep", [False, True], ids=["alone", "deep"])
@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("kind", ALL)
def test_a_loss_of(kind: str, part: str, deep: bool, functorch: bool) -> None:
    options: dict[str, Any] = {} if kind in CELLS else {"batch_first": True, "num_layers": 2}
    model = Model(kind, part, deep, **options)
    x = torch.randn((B, 3) if kind in CELLS else (B, 6, 3), dtype=DOUBLE)
    expected = one_by_one(model, [lambda b=b: model(x[b : b + 1]) for b in range(B)])
    watched = GradSampleModule(model, loss_reduction="sum", force_functorch=functorch)
    loss(watched(x)).backward()
    check(model, expected)


@pytest.mark.parametrize("kind", LAYERS)
def test_a_mean_of_batches_that_stand_second(kind: str) -> None:
    model = Model(kind, bidirectional=True)
    x = torch.randn(6, B, 3, dtype=DOUBLE)
    expected = one_by_one(model, [lambda b=b: model(x[:, b : b + 1]) for b in range(B)])
    (loss(GradSampleModule(model, batch_first=False)(x)) / B).backward()
    for weight, rows in zip(model.parameters(), expected, strict=True):
        assert_same(weight.grad_sample, rows)


@pytest.mark.parametrize("kind", ALL)
def test_a_given_state(kind: str) -> None:
    model = Model(kind, deep=False)
    lead = () if kind in CELLS else (1,)
    x, hx = (
        torch.randn(*([] if kind in CELLS else [6]), B, 3, dtype=DOUBLE),
        state(kind, *lead, B, 5),
    )

    def row(b: int) -> Any:
        cut = tuple(h.narrow(-2, b, 1) for h in tensors(hx))
        return model(x.narrow(-2, b, 1), cut if len(cut) == 2 else cut[0])

    expected = one_by_one(model, [lambda b=b: row(b) for b in range(B)])
    loss(GradSampleModule(model, loss_reduction="sum", batch_first=kind in CELLS)(x, hx)).backward()
    check(model, expected)


@pytest.mark.parametrize("kind", LAYERS)
def test_packed(kind: str) -> None:
    layer, lengths = ALL[kind][0](3, 5, dtype=DOUBLE), [1, 4, 2, 4]
    x = torch.randn(4, B, 3, dtype=DOUBLE)
    rows = [lambda b=b: layer(x[: lengths[b], b : b + 1]) for b in range(B)]
    expected = one_by_one(layer, rows)
    packed = pack_padded_sequence(x, lengths, enforce_sorted=False)
    y, hx = GradSampleModule(layer, loss_reduction="sum")(packed)
    loss((y.data, hx)).backward()
    check(layer, expected)


class Decoder(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.cell = ALL[kind][0](3, 5, dtype=DOUBLE)

    def forward(self, x: Tensor) -> list[Tensor]:
        hx = None
        for t in range(x.shape[1]):
            hx = self.cell(x[:, t], hx)
        return tensors(hx)


@pytest.mark.parametrize("kind", CELLS)
def test_a_loop_over_a_cell(kind: str) -> None:
    model, x = Decoder(kind), torch.randn(B, 3, 3, dtype=DOUBLE)
    expected = one_by_one(model, [lambda b=b: model(x[b : b + 1]) for b in range(B)])
    loss(GradSampleModule(model, loss_reduction="sum")(x)).backward()
    check(model, expected)


@pytest.mark.parametrize("kind", ALL)
def test_a_batch_of_no_rows(kind: str) -> None:
    """Poisson sampling draws them."""
    model = Model(kind, **({} if kind in CELLS else {"batch_first": True}))
    x = torch.randn((0, 3) if kind in CELLS else (0, 6, 3), dtype=DOUBLE)
    loss(GradSampleModule(model)(x)).backward()
    for weight in model.parameters():
        assert weight.grad_sample.shape == (0, *weight.shape)


def test_what_takes_no_part_has_zeros() -> None:
    layer = ALL["GRU"][0](3, 5, num_layers=2, dtype=DOUBLE)
    layer.weight_hh_l0.requires_grad_(False)
    _, hn = GradSampleModule(layer)(torch.randn(6, B, 3, dtype=DOUBLE))
    hn[0].sum().backward()
    assert not layer.weight_ih_l1.grad_sample.any() and layer.weight_ih_l0.grad_sample.any()
    assert layer.weight_hh_l0.grad is None


def test_only_while_it_watches() -> None:
    layer, x = ALL["LSTM"][0](3, 5, dtype=DOUBLE), torch.randn(6, B, 3, dtype=DOUBLE)
    watched = GradSampleModule(layer, loss_reduction="sum")
    with torch.no_grad():
        watched(x)
    watched.eval()
    loss(watched(x)).backward()
    assert layer.weight_ih_l0.grad_sample is None and not getattr(layer, "activations", None)
    watched.train().remove_hooks()
    loss(layer(x)).backward()
    assert getattr(layer.weight_ih_l0, "grad_sample", None) is None


def test_other_hooks_stay_what_they_were() -> None:
    layer, calls = ALL["GRU"][0](3, 5, dtype=DOUBLE), []

    def capture_activations_hook(*_: Any) -> None:
        calls.append("forward")

    layer.register_forward_hook(capture_activations_hook)
    layer.register_full_backward_hook(lambda *_: calls.append("backward"))
    GradSampleModule(layer)(torch.randn(6, B, 3, dtype=DOUBLE, requires_grad=True))[
        0
    ].sum().backward()
    assert calls == ["forward", "backward"]
    assert layer.weight_ih_l0.grad_sample.shape == (B, 15, 3)


def test_computed_weights_are_refused() -> None:
    layer = ALL["GRU"][0](3, 5)
    nn.utils.parametrizations.weight_norm(layer, "weight_hh_l0")
    with pytest.raises(RuntimeError, match="weights: expected parameters.*computed"):
        GradSampleModule(layer)(torch.randn(6, B, 3))


def test_a_sampler_of_somebody_elses() -> None:
    layer = ALL["GRU"][0](3, 5)
    samplers = GradSampleModule.GRAD_SAMPLERS
    samplers[type(layer)] = lambda *_: {}
    try:
        GradSampleModule(layer)
        assert layer._forward_hooks and layer._backward_hooks
    finally:
        del samplers[type(layer)]
