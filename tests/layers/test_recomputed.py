# SPDX-License-Identifier: MIT
"""The ops of the backends made of PyTorch's operations, and what layers owe without any kernel."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from cases import CELLS, Case, judge, make, need
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch.autograd import forward_ad
from torch.export import Dim
from torch.func import functional_call, jvp, vmap
from torch.fx.experimental.proxy_tensor import make_fx
from twins import ALL, LAYERS, assert_same, tensors
from twins import CELLS as STEPS

import fused_rnn
from fused_rnn import extensions, ops

pytestmark = pytest.mark.filterwarnings("ignore:fused_rnn. no fused kernel")
CASES = [
    case
    for cell in CELLS
    for case in (
        Case(cell, reverse=(0, 1), lengths=True, batch=5),
        Case(cell, states=False, bias=False),
        Case(cell, steps=1, batch=1, inputs=1, dtype="fp32"),
        Case(cell, dtype="bf16"),
    )
] + [Case("lstm", projection=5), Case("lstm", steps=1, projection=5, reverse=(0, 1))]


@pytest.mark.parametrize("backend", ops.RECOMPUTED)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_gradients_of_the_ops(case: Case, backend: str) -> None:
    need(backend, case)
    inputs = make(case)
    leaves = {"x": inputs.x, "h0": inputs.h0, "c0": inputs.c0}
    leaves |= {f"weights[{index}]": weight for index, weight in enumerate(inputs.weights)}
    leaves = {k: t.clone().requires_grad_() for k, t in leaves.items() if t is not None}
    weights = [leaf for name, leaf in leaves.items() if name.startswith("weights")]
    outputs = ops.PAIRS[backend].forward(
        *(leaves["x"], leaves.get("h0"), leaves.get("c0"), weights, inputs.lengths, inputs.resets),
        *(case.cell, case.reverse, True),
    )
    named = dict(zip(("y", "hn", "cn")[: len(inputs.cotangents)], outputs, strict=False))
    grads = torch.autograd.grad(list(named.values()), list(leaves.values()), inputs.cotangents)
    found = {name: output.detach() for name, output in named.items()}
    judge(case, found | {f"d{k}": g for k, g in zip(leaves, grads, strict=True)}, backend)


@pytest.mark.parametrize("backend", ops.RECOMPUTED)
def test_autocast_does_not_reach_into_the_ops(backend: str) -> None:
    inputs = make(Case("gru", dtype="fp32"))
    x, weights = inputs.x.requires_grad_(), inputs.weights
    results = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            y, *_ = ops.PAIRS[backend].forward(x, None, None, weights, None, None, "gru", [0], True)
            results.append((y.detach(), *torch.autograd.grad(y.sum(), x)))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.fixture
def pure(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in an installation without a compiler."""
    monkeypatch.setattr(extensions, "why_unavailable", lambda: "there is no extension")
    torch._dynamo.reset()


# What runs them: torch, and for the last two the reference.
SERVED: dict[str, tuple[Callable[..., Any], bool]] = {
    "RNN": (fused_rnn.FusedRNN, False),
    "GRU": (fused_rnn.FusedGRU, False),
    "LSTM": (fused_rnn.FusedLSTM, False),
    "textbook": (lambda *a, **k: fused_rnn.FusedGRU(*a, reset_after=False, **k), False),
    "resets": (fused_rnn.FusedLSTM, True),
}


def build(name: str, **options: Any) -> tuple[torch.nn.Module, Callable[[int], dict[str, Tensor]]]:
    """A layer, and what to call it with, by the number of steps."""
    make_layer, with_resets = SERVED[name]
    module = make_layer(3, 5, num_layers=2, bidirectional=True, dtype=torch.float64, **options)

    def arguments(steps: int) -> dict[str, Tensor]:
        found = {"input": torch.randn(steps, 2, 3, dtype=torch.float64)}
        return found | ({"resets": torch.rand(steps, 2) < 0.4} if with_resets else {})

    return module, arguments


def training(module: torch.nn.Module, **keywords: Any) -> list[Tensor]:
    """Outputs, and gradients of the weights."""
    module.zero_grad()
    outputs = tensors(module(**keywords))
    sum((k + 1) * output.sin().sum() for k, output in enumerate(outputs)).backward()
    return [*(o.detach() for o in outputs), *(p.grad for p in module.parameters())]


@pytest.mark.parametrize("name", SERVED)
def test_one_graph_for_all_lengths(name: str, pure: None) -> None:
    module, arguments = build(name)
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(module, backend=counter, fullgraph=True)
    for steps in (7, 3, 20):
        given = arguments(steps)
        for tensor in given.values():
            torch._dynamo.mark_dynamic(tensor, 0)
        assert_same(training(compiled, **given), training(module, **given))
    assert counter.frame_count == 1


@pytest.mark.parametrize("name", SERVED)
def test_export_with_any_length(name: str, pure: None) -> None:
    module, arguments = build(name)
    given, steps = arguments(6), Dim("steps", min=2)
    shapes = {"input": {0: steps}, "hx": None, "lengths": None}
    shapes |= {"resets": {0: steps} if "resets" in given else None}
    shapes = {name: axes for name, axes in shapes.items() if name in given}
    program = torch.export.export(module, (), kwargs=given, dynamic_shapes=shapes).module()
    for steps in (6, 11):
        given = arguments(steps)
        assert_same(training(program, **given), training(module, **given))


@pytest.mark.parametrize("kind", STEPS)
def test_cells_in_a_graph(kind: str, pure: None) -> None:
    module = ALL[kind][0](3, 5, dtype=torch.float64)
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
    x = torch.randn(2, 3, dtype=torch.float64)
    assert_same(training(compiled, input=x), training(module, input=x))


@pytest.mark.parametrize("kind", LAYERS)
def test_transforms(kind: str, pure: None) -> None:
    module = LAYERS[kind][0](3, 5, num_layers=2, dropout=0.5, dtype=torch.float64)
    xs, tangent = torch.randn(3, 4, 2, 3, dtype=torch.float64), torch.ones(4, 2, 3).double()
    stacked = {name: torch.stack([p, -p]).detach() for name, p in module.named_parameters()}
    dropped = vmap(module, randomness="different")(xs[:1].expand_as(xs))[0]
    assert not torch.equal(dropped[0], dropped[1])
    module.eval()
    assert_same(vmap(module)(xs)[0], torch.stack([module(x)[0] for x in xs]))
    both = vmap(lambda w: functional_call(module, w, (xs[0],))[0])(stacked)
    assert_same(both[0], module(xs[0])[0])
    moved = jvp(lambda x: module(x)[0], (xs[0],), (tangent,))[1]
    with forward_ad.dual_level():
        dual = module(forward_ad.make_dual(xs[0], tangent))[0]
        assert_same(forward_ad.unpack_dual(dual).tangent, moved)
    step = 1e-5
    numeric = (module(xs[0] + step * tangent)[0] - module(xs[0] - step * tangent)[0]) / (2 * step)
    assert (numeric - moved).abs().max() < 1e-8


def test_another_tracer_sees_one_op(pure: None) -> None:
    module, arguments = build("LSTM")
    with torch.no_grad():
        options: Any = dict(tracing_mode="symbolic", _allow_non_fake_inputs=True)
        traced = make_fx(lambda x: module(x)[0], **options)(arguments(4)["input"])
    names = [str(node.target) for node in traced.graph.nodes]
    assert sum("torch_forward" in name for name in names) == 2
    x = arguments(9)["input"]
    assert_same(traced(x), module(x)[0].detach())
