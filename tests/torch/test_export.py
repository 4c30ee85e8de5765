# SPDX-License-Identifier: MIT
"""torch.export with any batch size and any length, and what runs the exported program."""

import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.export import Dim

import fused_rnn
from fused_rnn.testing import assert_within_budget

MODULES: dict[str, Callable[..., nn.Module]] = {
    "rnn": fused_rnn.FusedRNN,
    "gru": fused_rnn.FusedGRU,
    "textbook": lambda *a, **k: fused_rnn.FusedGRU(*a, reset_after=False, **k),
    "lstm": fused_rnn.FusedLSTM,
}


def build(name: str, **keywords: Any) -> nn.Module:
    return MODULES[name](4, 5, num_layers=2, bidirectional=True, dtype=torch.float64, **keywords)


def export(module: nn.Module, strict: bool) -> torch.export.ExportedProgram:
    x = torch.randn(6, 3, 4, dtype=torch.float64)
    axes = {0: Dim("steps", min=2), 1: Dim("batch", min=2)}
    return torch.export.export(module, (x,), dynamic_shapes=({**axes},), strict=strict)


def same(found: object, truth: object) -> None:
    leaves: Callable[[object], list[Tensor]] = torch.utils._pytree.tree_leaves
    for index, (a, b) in enumerate(zip(leaves(found), leaves(truth), strict=True)):
        assert_within_budget(a.detach(), b.detach(), name=f"output {index}")


@pytest.mark.parametrize("strict", [True, False], ids=["strict", "nonstrict"])
@pytest.mark.parametrize("name", MODULES)
def test_dynamic_steps_and_batch(name: str, strict: bool) -> None:
    module = build(name)
    program = export(module, strict)
    for steps, batch in ((6, 3), (11, 3), (2, 7)):
        x = torch.randn(steps, batch, 4, dtype=torch.float64)
        same(program.module()(x), module(x))


@pytest.mark.parametrize("strict", [True, False], ids=["strict", "nonstrict"])
def test_ragged_batches(strict: bool) -> None:
    module = build("lstm")
    steps, batch = Dim("steps", min=2), Dim("batch", min=2)
    shapes: dict[str, Any] = {"input": {0: steps, 1: batch}, "hx": None}
    shapes |= {"lengths": {0: batch}, "resets": {0: steps, 1: batch}}

    def arguments(steps: int, batch: int) -> dict[str, Any]:
        return {
            "input": torch.randn(steps, batch, 4, dtype=torch.float64),
            "hx": None,
            "lengths": torch.randint(0, steps + 1, (batch,)),
            "resets": torch.rand(steps, batch) < 0.3,
        }

    program = torch.export.export(
        module, (), kwargs=arguments(6, 3), dynamic_shapes=shapes, strict=strict
    )
    for sizes in ((6, 3), (11, 4)):
        keywords = arguments(*sizes)
        same(program.module()(**keywords), module(**keywords))


def test_saved_and_loaded() -> None:
    module = build("gru").eval()
    file = io.BytesIO()
    torch.export.save(export(module, False), file)
    file.seek(0)
    loaded = torch.export.load(file).module()
    x = torch.randn(9, 2, 4, dtype=torch.float64)
    same(loaded(x), module(x))


def test_decompositions_keep_the_dropout() -> None:
    module = build("gru", dropout=0.5)
    program = export(module, False).run_decompositions()
    targets = [str(node.target) for node in program.graph.nodes]
    assert any("dropout" in target or "bernoulli" in target for target in targets)
    ours = [target for target in targets if target.startswith("fused_rnn.")]
    assert len(ours) == 2 and all("_forward" in target for target in ours)


@pytest.mark.parametrize("decompose", [False, True])
@pytest.mark.parametrize("guard", [torch.enable_grad, torch.no_grad])
def test_an_exported_program_keeps_no_tape(guard: Callable[[], Any], decompose: bool) -> None:
    """Whatever the mode of the export: who trains the program has one kept for it."""
    with guard():
        program = export(build("gru"), False)
        program = program.run_decompositions() if decompose else program
    ours = [node for node in program.graph.nodes if str(node.target).startswith("fused_rnn.")]
    nodes = [node for node in ours if "_forward" in str(node.target)]
    names = [argument.name for argument in nodes[0].target._schema.arguments]
    assert len(nodes) == 2
    assert not any(node.args[names.index("keep_tape")] for node in nodes)


def test_an_exported_program_trains() -> None:
    """The op stands in the graph by itself: its own gradient, once and twice."""
    module = build("lstm")
    twin = export(module, False).module()
    x = torch.randn(4, 2, 4, dtype=torch.float64)
    results = []
    for one in (module, twin):
        leaf = x.clone().requires_grad_()
        y = one(leaf)[0].sin().sum()
        (dx,) = torch.autograd.grad(y, leaf, create_graph=True)
        grads = torch.autograd.grad(dx.square().sum(), [leaf, *one.parameters()])
        results.append((dx, *grads))
    same(*results)


@pytest.mark.parametrize("guard", [torch.enable_grad, torch.no_grad])
def test_an_exported_program_keeps_tangents(guard: Callable[[], Any]) -> None:
    module = build("lstm").requires_grad_(False)
    twin = export(module, False).module()
    x, tangent = torch.randn(2, 4, 2, 4, dtype=torch.float64)
    with guard(), forward_ad.dual_level():
        outputs = [one(forward_ad.make_dual(x, tangent))[0] for one in (twin, module)]
        found, truth = (forward_ad.unpack_dual(output).tangent for output in outputs)
    assert found is not None
    same(found, truth)
