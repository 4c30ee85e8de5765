# SPDX-License-Identifier: MIT
"""torch.compile: one whole graph for every length, training and inference, and what is in it."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from functorch.compile import make_boxed_func
from torch import Tensor, nn
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.exc import Unsupported
from torch._dynamo.testing import CompileCounterWithBackend
from torch.autograd import forward_ad

import fused_rnn
from fused_rnn.testing import assert_within_budget

MODULES: dict[str, Callable[..., nn.Module]] = {
    "rnn": fused_rnn.FusedRNN,
    "gru": fused_rnn.FusedGRU,
    "textbook": lambda *a, **k: fused_rnn.FusedGRU(*a, reset_after=False, **k),
    "lstm": fused_rnn.FusedLSTM,
    "projected": lambda *a, **k: fused_rnn.FusedLSTM(*a, proj_size=3, **k),
}

_KEEPS_TANGENTS = tuple(int(n) for n in torch.__version__.split(".")[:2]) < (2, 14)


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def build(name: str, **keywords: Any) -> nn.Module:
    return MODULES[name](4, 5, num_layers=2, bidirectional=True, dtype=torch.float64, **keywords)


def step(module: nn.Module, *args: Any, **keywords: Any) -> list[Tensor]:
    """Outputs and gradients of everything, by way of one number."""
    module.zero_grad()
    outputs = torch.utils._pytree.tree_leaves(module(*args, **keywords))
    sum((k + 1) * output.sin().sum() for k, output in enumerate(outputs)).backward()
    return [*(o.detach() for o in outputs), *(p.grad for p in module.parameters())]


def same(found: list[Tensor], truth: list[Tensor]) -> None:
    for index, (a, b) in enumerate(zip(found, truth, strict=True)):
        assert_within_budget(a, b, name=f"tensor {index}")


def layers_in(graph: torch.fx.GraphModule) -> list[torch.fx.Node]:
    """The calls of forward ops, whatever the backend."""
    ours = [node for node in graph.graph.nodes if str(node.target).startswith("fused_rnn.")]
    return [node for node in ours if "_forward" in str(node.target)]


def backend_of(node: torch.fx.Node) -> str:
    return str(node.target).removeprefix("fused_rnn.").partition("_")[0]


@pytest.mark.parametrize("name", MODULES)
def test_one_graph_for_all_lengths(name: str) -> None:
    module = build(name)
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(module, backend=counter, fullgraph=True)
    for steps in (7, 3, 20, 2, 11):
        x = torch.randn(steps, 3, 4, dtype=torch.float64)
        torch._dynamo.mark_dynamic(x, 0)
        same(step(compiled, x), step(module, x))
    assert counter.frame_count == 1


def test_two_graphs_without_a_hint() -> None:
    module = build("gru")
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(module, backend=counter, fullgraph=True)
    for steps, batch in ((7, 3), (3, 3), (20, 3), (11, 3)):
        x = torch.randn(steps, batch, 4, dtype=torch.float64)
        same(step(compiled, x), step(module, x))
    assert counter.frame_count <= 2


@pytest.mark.parametrize("name", ["gru", "lstm"])
def test_ragged_batches(name: str) -> None:
    module = build(name, batch_first=True)
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(module, backend=counter, fullgraph=True)
    for steps in (7, 3, 20):
        x = torch.randn(3, steps, 4, dtype=torch.float64)
        options = {
            "lengths": torch.tensor([steps, 0, 2]),
            "resets": torch.rand(3, steps) < 0.3,
        }
        torch._dynamo.mark_dynamic(x, 1)
        torch._dynamo.mark_dynamic(options["resets"], 1)
        same(step(compiled, x, **options), step(module, x, **options))
    assert counter.frame_count == 1


@pytest.mark.parametrize("guard", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("name", MODULES)
def test_inference(name: str, guard: Callable[[], Any]) -> None:
    module = build(name)
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
    x = torch.randn(6, 3, 4, dtype=torch.float64)
    with guard():
        found = torch.utils._pytree.tree_leaves(compiled(x))
        truth = torch.utils._pytree.tree_leaves(module(x))
        assert not any(output.requires_grad for output in found)
        same([t.clone() for t in found], [t.clone() for t in truth])


def test_training_and_inference_by_turns() -> None:
    """The tape is kept where a gradient may be asked for, and only there."""
    module, graphs = build("lstm"), []

    def keep(graph: torch.fx.GraphModule, _: object) -> Any:
        graphs.append(graph)
        return make_boxed_func(graph.forward)

    compiled = torch.compile(module, backend=aot_autograd(fw_compiler=keep), fullgraph=True)
    x = torch.randn(6, 3, 4, dtype=torch.float64)
    for _ in range(2):
        same(step(compiled, x), step(module, x))
        with torch.no_grad():
            compiled(x)
    kept = [node.args[8] for graph in graphs for node in layers_in(graph)]
    assert sorted(kept) == [False, False, True, True]


def test_inductor() -> None:
    module = build("lstm")
    compiled = torch.compile(module, fullgraph=True)
    for steps in (5, 9):
        x = torch.randn(steps, 3, 4, dtype=torch.float64)
        torch._dynamo.mark_dynamic(x, 0)
        same(step(compiled, x), step(module, x))


def test_dropout_is_kept() -> None:
    module = build("gru", dropout=0.5)
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
    x = torch.randn(6, 3, 4, dtype=torch.float64)
    torch.manual_seed(1)
    first = compiled(x)[0]
    second = compiled(x)[0]
    torch.manual_seed(1)
    assert torch.equal(first, module(x)[0])
    assert not torch.equal(first, second)
    module.eval()
    assert torch.equal(compiled(x)[0], module(x)[0])


def test_the_backend_of_a_context_is_seen() -> None:
    module = build("gru")
    counter = CompileCounterWithBackend("eager")
    compiled = torch.compile(module, backend=counter, fullgraph=True)
    x = torch.randn(3, 2, 4, dtype=torch.float64)
    for name in ("auto", "reference", "auto", "reference"):
        with fused_rnn.use_backend(name):
            same([compiled(x)[0].detach()], [module(x)[0].detach()])
    first, second = (set(map(backend_of, layers_in(graph))) for graph in counter.graphs)
    assert first != second == {"reference"}


def test_a_context_inside_the_graph() -> None:
    module = build("gru")
    counter = CompileCounterWithBackend("eager")

    def run(x: Tensor) -> tuple[Tensor, Tensor]:
        with fused_rnn.use_backend("reference"):
            first = module(x)[0]
        return first, module(x)[0]

    first, second = torch.compile(run, backend=counter, fullgraph=True)(
        torch.randn(3, 2, 4, dtype=torch.float64)
    )
    same([first.detach()], [second.detach()])
    names = [backend_of(node) for node in layers_in(counter.graphs[0])]
    assert names[:2] == ["reference"] * 2 and "reference" not in names[2:] and len(names) == 4


def test_transforms_inside_the_graph() -> None:
    module = fused_rnn.FusedLSTM(4, 5, bidirectional=True, dtype=torch.float64)
    x, tangent = (torch.randn(2, 3, 4, dtype=torch.float64) for _ in range(2))

    def total(x: Tensor) -> Tensor:
        return module(x)[0].sin().sum()

    def transforms(x: Tensor) -> list[Tensor]:
        return [
            torch.func.grad(total)(x),
            torch.func.vmap(total)(torch.stack([x, 2 * x])),
            torch.func.jvp(total, (x,), (tangent,))[1],
        ]

    compiled = torch.compile(transforms, backend="aot_eager", fullgraph=True)
    same([t.detach() for t in compiled(x)], [t.detach() for t in transforms(x)])


@pytest.mark.parametrize("frozen", [True, False])
def test_forward_mode_around_the_graph_is_kept_or_refused(frozen: bool) -> None:
    """Up to torch 2.13 refused by autograd where weights want gradients; later by torch.compile."""
    module = build("gru").requires_grad_(not frozen)
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
    x, tangent = torch.randn(2, 4, 3, 4, dtype=torch.float64)
    with forward_ad.dual_level():
        x = forward_ad.make_dual(x, tangent)
        truth = forward_ad.unpack_dual(module(x)[0]).tangent
        if frozen and _KEEPS_TANGENTS:
            same([forward_ad.unpack_dual(compiled(x)[0]).tangent], [truth])
        else:
            with pytest.raises((NotImplementedError, Unsupported), match="jvp|dual tensor"):
                compiled(x)


@pytest.mark.parametrize("kind", ["FusedRNNCell", "FusedGRUCell", "FusedLSTMCell"])
def test_cells(kind: str) -> None:
    module = getattr(fused_rnn, kind)(4, 5, dtype=torch.float64)
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
    x = torch.randn(3, 4, dtype=torch.float64)
    same(step(compiled, x), step(module, x))
