# SPDX-License-Identifier: MIT
"""Eager gradients of the compiled backend: which, how often, and what may not be touched."""

import itertools
from collections.abc import Callable

import pytest
import torch
from cases import CELLS, Case, Inputs, judge, make, need, run, run_layer
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils.checkpoint import checkpoint

from fused_rnn.testing import assert_within_budget

BOTH = {"reverse": (0, 1), "lengths": True, "resets": True, "batch": 4, "steps": 5, "hidden": 6}


@pytest.fixture(autouse=True)
def native() -> None:
    need("native")


def leaves_of(inputs: Inputs) -> list[Tensor]:
    tensors = (inputs.x, inputs.h0, inputs.c0, *inputs.weights)
    return [t.clone().requires_grad_() for t in tensors if t is not None]


def layer(
    case: Case, inputs: Inputs, leaves: list[Tensor], backend: str = "native"
) -> list[Tensor]:
    """The outputs that there are, for the leaves in order."""
    states = 2 if case.cell == "lstm" else 1
    h0, c0 = leaves[1], leaves[2] if states == 2 else None
    output = run_layer(
        *(leaves[0], h0, c0, leaves[1 + states :], inputs.lengths, inputs.resets),
        cell=case.cell,
        reverse=case.reverse,
        backend=backend,
    )
    return [tensor for tensor in output if tensor is not None]


@pytest.mark.parametrize("cell", CELLS)
def test_any_subset_of_inputs_and_outputs(cell: str) -> None:
    case = Case(cell, **BOTH)
    inputs = make(case)
    groups = {"x": [0], "states": [1, 2] if cell == "lstm" else [1]}
    groups |= {"w_hh": [len(groups["states"]) + 2], "every": list(range(len(leaves_of(inputs))))}
    count = len(inputs.cotangents)
    subsets = [s for n in range(1, count + 1) for s in itertools.combinations(range(count), n)]
    for (name, wanted), chosen in itertools.product(groups.items(), subsets):
        results = []
        for backend in ("native", "reference"):
            leaves = [leaf.requires_grad_(i in wanted) for i, leaf in enumerate(leaves_of(inputs))]
            outputs = layer(case, inputs, leaves, backend)
            results.append(
                torch.autograd.grad(
                    [outputs[i] for i in chosen],
                    [leaves[i] for i in wanted],
                    [inputs.cotangents[i] for i in chosen],
                    allow_unused=True,
                    materialize_grads=True,
                )
            )
        for index, (grad, truth) in enumerate(zip(*results, strict=True)):
            assert_within_budget(grad, truth, name=f"{name}[{index}] of {chosen}", case=case)


@pytest.mark.parametrize("cell", CELLS)
def test_a_retained_graph_gives_the_same_bits_twice(cell: str) -> None:
    case = Case(cell, dtype="fp32", **BOTH)
    inputs = make(case)
    leaves = leaves_of(inputs)
    outputs = layer(case, inputs, leaves)
    first = torch.autograd.grad(outputs, leaves, inputs.cotangents, retain_graph=True)
    second = torch.autograd.grad(outputs, leaves, inputs.cotangents)
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a, b)
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(outputs, leaves, inputs.cotangents)


def test_a_second_backward_needs_a_retained_graph() -> None:
    case = Case("lstm", **BOTH)
    inputs = make(case)
    leaves = leaves_of(inputs)
    outputs = layer(case, inputs, leaves)
    sum(t.sum() for t in outputs).backward()
    assert all(leaf.grad is not None for leaf in leaves)
    with pytest.raises(RuntimeError, match="second time"):
        outputs[0].sum().backward()


@pytest.mark.parametrize("place", ["x", "h0", "w_ih", "w_hh", "y", "hn"])
@pytest.mark.parametrize("cell", ["rnn_relu", "gru", "lstm"])
def test_changing_what_backward_needs_raises_or_is_harmless(cell: str, place: str) -> None:
    case = Case(cell, **BOTH)
    inputs = make(case)
    leaves = leaves_of(inputs)
    # A step between leaf and layer: autograd itself guards leaves.
    inner = [leaf * 1 for leaf in leaves]
    outputs = layer(case, inputs, inner)
    clean = torch.autograd.grad(outputs, leaves, inputs.cotangents, retain_graph=True)
    first_weight = 3 if cell == "lstm" else 2
    index = {"x": 0, "h0": 1, "w_ih": first_weight, "w_hh": first_weight + 1}
    with torch.no_grad():
        {"y": outputs[0], "hn": outputs[1]}.get(place, inner[index.get(place, 0)]).mul_(2)
    try:
        again = torch.autograd.grad(outputs, leaves, inputs.cotangents)
    except RuntimeError as error:
        assert "modified by an inplace operation" in str(error)
    else:
        assert all(torch.equal(a, b) for a, b in zip(clean, again, strict=True))


@pytest.mark.parametrize("cell", CELLS)
def test_strided_inputs_and_expanded_cotangents(cell: str) -> None:
    case = Case(cell, **BOTH)
    inputs = make(case)
    apart = inputs._replace(
        x=inputs.x.transpose(0, 2).contiguous().transpose(0, 2),
        h0=inputs.h0.repeat(1, 1, 2)[..., : case.hidden],
        weights=[w.t().contiguous().t() for w in inputs.weights],
        lengths=inputs.lengths.repeat_interleave(2)[::2],
        resets=inputs.resets.t().contiguous().t(),
        cotangents=tuple(c[:1, :1].expand_as(c) for c in inputs.cotangents),
    )
    same = inputs._replace(cotangents=tuple(c.contiguous() for c in apart.cotangents))
    found = run(case, apart, "native")
    for name, tensor in run(case, same, "native").items():
        assert torch.equal(found[name], tensor), name


def nested(
    case: Case, inputs: Inputs, leaves: list[Tensor], order: int, backend: str
) -> list[Tensor]:
    """Gradients of gradients, `order` deep, through random combinations."""
    draw = torch.Generator().manual_seed(1)
    values = layer(case, inputs, leaves, backend)
    for _ in range(order):
        total = sum((torch.randn(v.shape, generator=draw, dtype=v.dtype) * v).sum() for v in values)
        values = list(torch.autograd.grad(total, leaves, create_graph=True))
    return values


@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize("cell", CELLS)
def test_higher_derivatives(cell: str, order: int) -> None:
    case = Case(cell, **{**BOTH, "steps": 3, "hidden": 3, "batch": 2, "inputs": 2})
    inputs = make(case)
    found = nested(case, inputs, leaves_of(inputs), order, "native")
    truth = nested(case, inputs, leaves_of(inputs), order, "reference")
    for index, (a, b) in enumerate(zip(found, truth, strict=True)):
        assert_within_budget(a.detach(), b.detach(), name=f"leaf {index}", case=case)


def test_gradient_penalty_with_frozen_weights() -> None:
    """The second derivative where only some first ones are asked for."""
    case = Case("gru", **BOTH)
    inputs = make(case)
    results = []
    for backend in ("native", "reference"):
        leaves = [leaf.requires_grad_(i == 0) for i, leaf in enumerate(leaves_of(inputs))]
        y = layer(case, inputs, leaves, backend)[0]
        (dx,) = torch.autograd.grad(y.square().sum(), leaves[0], create_graph=True)
        results.append(torch.autograd.grad(dx.square().sum(), leaves[0])[0])
    assert_within_budget(*results, case=case)


@pytest.mark.parametrize("guard", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("cell", CELLS)
def test_without_gradients(cell: str, guard: Callable[[], object]) -> None:
    case = Case(cell, **BOTH)
    inputs = make(case)
    truth = layer(case, inputs, leaves_of(inputs), "reference")
    leaves = leaves_of(inputs)
    with guard():
        found = layer(case, inputs, leaves)
    for name, actual, expected in zip(("y", "hn", "cn"), found, truth, strict=False):
        assert not actual.requires_grad
        assert_within_budget(actual.clone(), expected.detach(), name=name, case=case)


@pytest.mark.parametrize("gradients", [True, False])
@pytest.mark.parametrize("cell", CELLS)
def test_forward_mode_keeps_its_tangents(cell: str, gradients: bool) -> None:
    case = Case(cell, **BOTH)
    inputs = make(case)
    tangents = [torch.randn_like(leaf) for leaf in leaves_of(inputs)]
    for moving in (range(len(tangents)), [0], [1], [len(tangents) - 1]):
        results = []
        for backend in ("native", "reference"):
            with torch.set_grad_enabled(gradients), forward_ad.dual_level():
                leaves = [
                    forward_ad.make_dual(leaf, tangents[i]) if i in moving else leaf
                    for i, leaf in enumerate(leaves_of(inputs))
                ]
                outputs = layer(case, inputs, leaves, backend)
                results.append([forward_ad.unpack_dual(t).tangent for t in outputs])
        for name, found, truth in zip(("y", "hn", "cn"), *results, strict=False):
            assert found is not None, f"{name} lost its tangent"
            assert_within_budget(found.detach(), truth.detach(), name=name, case=case)


def test_checkpoint_hooks_and_anomaly_mode() -> None:
    case = Case("lstm", **BOTH)
    inputs = make(case)
    clean = leaves_of(inputs)
    torch.autograd.backward(layer(case, inputs, clean), list(inputs.cotangents))

    def grads(forward: Callable[[list[Tensor]], list[Tensor]]) -> list[Tensor]:
        leaves, seen = leaves_of(inputs), []
        handles = [leaf.register_hook(seen.append) for leaf in leaves]
        torch.autograd.backward(forward(leaves), list(inputs.cotangents))
        assert len(seen) == len(handles)
        return [leaf.grad for leaf in leaves]

    def checkpointed(leaves: list[Tensor], reentrant: bool) -> list[Tensor]:
        def body(*tensors: Tensor) -> tuple[Tensor, ...]:
            return tuple(layer(case, inputs, list(tensors)))

        return checkpoint(body, *leaves, use_reentrant=reentrant)

    def on_disk(leaves: list[Tensor]) -> list[Tensor]:
        with torch.autograd.graph.saved_tensors_hooks(lambda t: t.clone(), lambda t: t):
            return layer(case, inputs, leaves)

    def watched(leaves: list[Tensor]) -> list[Tensor]:
        with torch.autograd.detect_anomaly(check_nan=True):
            return layer(case, inputs, leaves)

    for forward in (
        lambda leaves: checkpointed(leaves, True),
        lambda leaves: checkpointed(leaves, False),
        on_disk,
        watched,
    ):
        for leaf, grad in zip(clean, grads(forward), strict=True):
            assert torch.equal(leaf.grad, grad)


@pytest.mark.parametrize("cell", CELLS)
def test_empty_batches(cell: str) -> None:
    case = Case(cell, batch=1, reverse=(0, 1))
    inputs = make(case)
    empty = inputs._replace(
        x=inputs.x[:, :0],
        h0=inputs.h0[:, :0],
        c0=None if inputs.c0 is None else inputs.c0[:, :0],
        cotangents=tuple(c[:, :0] for c in inputs.cotangents),
    )
    found = run(case, empty, "native")
    assert found["y"].shape == (case.steps, 0, 2, case.hidden)
    assert not any(found[name].any() for name in found if name.startswith("dweights"))


def test_weights_changed_through_data_are_seen() -> None:
    case = Case("lstm")
    inputs = make(case)
    run(case, inputs, "native")
    for weight in inputs.weights:
        weight.data.neg_()
    changed = run(case, inputs, "native")
    truth = run(case, inputs, "reference")
    for name, tensor in changed.items():
        assert_within_budget(tensor, truth[name], name=name, case=case)


def test_the_judge_judges() -> None:
    case = Case("gru", dtype="fp32")
    found = run(case, make(case), "native")
    judge(case, found, "native")
    found["dx"][3, 1, 2] += 1e-3
    with pytest.raises(AssertionError, match=r"dx native gru.*at \(3, 1, 2\)"):
        judge(case, found, "native")
