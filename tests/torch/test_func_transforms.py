# SPDX-License-Identifier: MIT
"""torch.func over the backends: vmap, grad, jvp, vjp, jacobians, and one in another."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from cases import CELLS, Case, Inputs, make, need, run_layer
from torch import Tensor
from torch.func import functional_call, grad, jacfwd, jacrev, jvp, vjp, vmap

import fused_rnn
from fused_rnn.testing import assert_within_budget

SMALL = {"steps": 3, "batch": 2, "inputs": 2, "hidden": 3, "reverse": (0, 1)}


each_backend = pytest.mark.parametrize("backend", ["native", "torch"])


def ragged(backend: str, cell: str) -> Case:
    """A small case with all that the backend can do."""
    case = Case(cell, lengths=True, resets=backend != "torch", **SMALL)
    need(backend, case)
    return case


def same(found: Any, truth: Any) -> None:
    """Raises unless two trees of tensors agree."""
    pairs = zip(
        torch.utils._pytree.tree_leaves(found), torch.utils._pytree.tree_leaves(truth), strict=True
    )
    for index, (a, b) in enumerate(pairs):
        assert_within_budget(a.detach(), b.detach(), name=f"leaf {index}")


def layer(case: Case, inputs: Inputs, backend: str) -> Callable[..., tuple[Tensor, ...]]:
    """The layer as a function (x, h0, c0, *weights) of all that may have a gradient."""

    def outputs(x: Tensor, h0: Tensor, c0: Tensor | None, *weights: Tensor) -> tuple[Tensor, ...]:
        found = run_layer(
            *(x, h0, c0, weights, inputs.lengths, inputs.resets),
            cell=case.cell,
            reverse=case.reverse,
            backend=backend,
        )
        return tuple(tensor for tensor in found if tensor is not None)

    return outputs


def arguments(inputs: Inputs) -> tuple[Tensor | None, ...]:
    return (inputs.x, inputs.h0, inputs.c0, *inputs.weights)


def mapped(inputs: Inputs, which: str, count: int = 3) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Arguments of which some have a new axis of `count` places, and its place in each."""
    groups = ["x", "states", "states", *["weights"] * len(inputs.weights)]
    args, dims = [], []
    for number, (group, arg) in enumerate(zip(groups, arguments(inputs), strict=True)):
        # The axis stands first in one argument and last in the next.
        dim = None if arg is None or which not in (group, "all") else (-1, 0)[number % 2]
        args.append(
            arg if dim is None else torch.stack([arg * (k + 1) / 2 for k in range(count)], dim)
        )
        dims.append(dim)
    return tuple(args), tuple(dims)


@each_backend
@pytest.mark.parametrize("which", ["x", "states", "weights", "all"])
@pytest.mark.parametrize("cell", CELLS)
def test_vmap_and_its_gradient(cell: str, which: str, backend: str) -> None:
    case = ragged(backend, cell)
    inputs = make(case)
    args, dims = mapped(inputs, which)
    results = []
    for name in (backend, "reference"):
        function = vmap(layer(case, inputs, name), in_dims=dims)
        leaves = [None if a is None else a.clone().requires_grad_() for a in args]
        outputs = function(*leaves)
        draw = torch.Generator().manual_seed(2)
        cotangents = [torch.randn(o.shape, generator=draw, dtype=o.dtype) for o in outputs]
        present = [leaf for leaf in leaves if leaf is not None]
        results.append((outputs, torch.autograd.grad(outputs, present, cotangents)))
    same(*results)


@each_backend
def test_vmap_over_lengths_and_resets(backend: str) -> None:
    inputs = make(case := ragged(backend, "gru"))
    lengths = torch.tensor([[3, 0], [1, 2], [2, 3]])
    resets = torch.rand(case.steps, 3, case.batch) < 0.4
    results = []
    for name in (backend, "reference"):

        def run(lengths: Tensor, resets: Tensor, name: str = name) -> tuple[Tensor, ...]:
            these = inputs._replace(lengths=lengths, resets=resets if case.resets else None)
            return layer(case, these, name)(*arguments(inputs))

        results.append(vmap(run, in_dims=(0, 1))(lengths, resets))
    same(*results)


def loss(case: Case, inputs: Inputs, backend: str) -> Callable[..., Tensor]:
    """One number from every output."""
    outputs = layer(case, inputs, backend)

    def total(*args: Tensor) -> Tensor:
        pairs = zip(outputs(*args), inputs.cotangents, strict=True)
        return sum((output.sin() * c).sum() for output, c in pairs)

    return total


@each_backend
@pytest.mark.parametrize("cell", CELLS)
def test_transforms_of_the_layer(cell: str, backend: str) -> None:
    inputs = make(case := ragged(backend, cell))
    args = arguments(inputs)
    places = tuple(i for i, arg in enumerate(args) if arg is not None)
    some = (0, 1, len(args) - 1)
    draw = torch.Generator().manual_seed(3)
    tangents = [torch.randn(args[i].shape, generator=draw, dtype=torch.float64) for i in some]

    def transforms(backend: str) -> dict[str, Any]:
        total, outputs = loss(case, inputs, backend), layer(case, inputs, backend)

        def of_some(*values: Tensor) -> tuple[Tensor, ...]:
            full = list(args)
            for place, value in zip(some, values, strict=True):
                full[place] = value
            return outputs(*full)

        def twice(function: Callable[[Tensor], Tensor]) -> Tensor:
            def once(x: Tensor) -> Tensor:
                return jvp(function, (x,), (tangents[0],))[1]

            return jvp(once, (args[0],), (tangents[0],))[1]

        chosen = [args[i] for i in some]
        return {
            "grad": grad(total, argnums=places)(*args),
            "vjp": vjp(of_some, *chosen)[1](inputs.cotangents),
            "jvp": jvp(of_some, tuple(chosen), tuple(tangents)),
            "jacrev": jacrev(outputs, argnums=some)(*args),
            "jacfwd": jacfwd(outputs, argnums=some)(*args),
            "grad of grad": grad(lambda x: grad(total)(x, *args[1:]).square().sum())(args[0]),
            "hessian": jacfwd(jacrev(total))(*args),
            "jacrev of jacfwd": jacrev(jacfwd(total))(*args),
            "jvp of jvp": twice(lambda x: total(x, *args[1:])),
            "jvp of jvp of grad": twice(lambda x: grad(total)(x, *args[1:])),
        }

    found, truth = transforms(backend), transforms("reference")
    for name in truth:
        same(found[name], truth[name])


def modules() -> list[torch.nn.Module]:
    kinds = (fused_rnn.FusedRNN, fused_rnn.FusedGRU, fused_rnn.FusedLSTM)
    return [kind(2, 3, num_layers=2, dtype=torch.float64) for kind in kinds]


@pytest.mark.parametrize("module", modules(), ids=lambda module: type(module).__name__)
def test_per_sample_gradients(module: torch.nn.Module) -> None:
    weights = {name: p.detach() for name, p in module.named_parameters()}
    x = torch.randn(4, 5, 1, 2, dtype=torch.float64)

    def total(weights: dict[str, Tensor], x: Tensor) -> Tensor:
        return functional_call(module, weights, (x,))[0].square().sum()

    found = vmap(grad(total), in_dims=(None, 0))(weights, x)
    alone = [grad(total)(weights, sample) for sample in x]
    same(found, {name: torch.stack([one[name] for one in alone]) for name in weights})


@pytest.mark.parametrize("module", modules(), ids=lambda module: type(module).__name__)
def test_ensembles(module: torch.nn.Module) -> None:
    weights = {
        name: torch.stack([p.detach(), -p.detach()]) for name, p in module.named_parameters()
    }
    x = torch.randn(5, 2, 2, dtype=torch.float64)

    def run(weights: dict[str, Tensor], x: Tensor) -> Tensor:
        return functional_call(module, weights, (x,))[0]

    found = vmap(run, in_dims=(0, None))(weights, x)
    alone = [run({n: w[k] for n, w in weights.items()}, x) for k in range(2)]
    same(found, torch.stack(alone))


@each_backend
def test_gradients_mapped_by_autograd_itself(backend: str) -> None:
    """`is_grads_batched` maps by an older vmap than torch.func's."""
    inputs = make(case := ragged(backend, "lstm"))
    leaves = [arg.clone().requires_grad_() for arg in arguments(inputs)]
    y = layer(case, inputs, backend)(*leaves)[0]
    cotangents = torch.randn(4, *y.shape, dtype=y.dtype)
    for wanted in (leaves, leaves[:1]):
        found = torch.autograd.grad(y, wanted, cotangents, is_grads_batched=True, retain_graph=True)
        alone = [torch.autograd.grad(y, wanted, c, retain_graph=True) for c in cotangents]
        same(found, tuple(torch.stack(grads) for grads in zip(*alone, strict=True)))


@each_backend
@pytest.mark.parametrize("strategy", ["reverse-mode", "forward-mode"])
def test_vectorized_jacobians(strategy: str, backend: str) -> None:
    inputs = make(case := ragged(backend, "gru"))

    def jacobian(backend: str) -> Any:
        outputs = layer(case, inputs, backend)
        return torch.autograd.functional.jacobian(
            lambda x, w: outputs(x, inputs.h0, None, w, *inputs.weights[1:]),
            (inputs.x, inputs.weights[0]),
            vectorize=True,
            strategy=strategy,
        )

    same(jacobian(backend), jacobian("reference"))


@each_backend
def test_dead_tensors_of_a_transform_do_not_break_later_calls(backend: str) -> None:
    inputs = make(case := ragged(backend, "lstm"))
    _, pull = vjp(layer(case, inputs, backend), *arguments(inputs))
    first, second = pull(inputs.cotangents), pull(inputs.cotangents)
    same(first, second)
