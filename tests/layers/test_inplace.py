# SPDX-License-Identifier: MIT
"""Tensors written in place after a call: gradients stay right, as torch.nn's, or there is an error.

Outputs belong to the caller, who may write to them wherever torch.nn allows it. Inputs that a
backward pass still needs are either copied or missed: an error, and never a wrong gradient.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch._inductor.utils import fresh_cache
from torch.nn.utils.rnn import pack_padded_sequence
from twins import ALL, CELLS, DOUBLE, LAYERS, assert_same, state, tensors, twins

# Above the size from which copies of the outputs are made only when they are written to.
LARGE = (70, 16, 16)
STALE = "modified by an inplace operation"


class Form(NamedTuple):
    """How a layer is made and called."""

    options: dict[str, Any]
    input: tuple[int, ...]
    state: tuple[int, ...]


FORMS = {
    "one": Form({}, (5, 3, 4), (1, 3, 6)),
    "one row": Form({}, (5, 1, 4), (1, 1, 6)),
    "batch first": Form({"batch_first": True}, (3, 5, 4), (1, 3, 6)),
    "batch first, one row": Form({"batch_first": True}, (1, 5, 4), (1, 1, 6)),
    "one step": Form({}, (1, 3, 4), (1, 3, 6)),
    "unbatched": Form({}, (5, 4), (1, 6)),
    "two layers": Form({"num_layers": 2}, (5, 3, 4), (2, 3, 6)),
    "both directions": Form({"bidirectional": True, "num_layers": 2}, (5, 3, 4), (4, 3, 6)),
}
SINGLE = {"batched": Form({}, (3, 4), (3, 6)), "unbatched": Form({}, (4,), (6,))}


@pytest.fixture(autouse=True, scope="module")
def no_cache() -> Iterator[None]:
    """No graphs from before, of another version of what is traced."""
    with fresh_cache():
        yield


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def forms(kind: str) -> dict[str, Form]:
    return SINGLE if kind in CELLS else FORMS


def arguments(kind: str, form: Form, seed: int = 0) -> tuple[Tensor, Any]:
    """An input that wants its gradient, and buffers of states that do not."""
    torch.manual_seed(seed)
    return torch.randn(form.input, dtype=DOUBLE).requires_grad_(), state(kind, *form.state)


def gradients(module: nn.Module, args: tuple[Any, ...], outputs: list[Tensor]) -> list[Tensor]:
    """Those of a loss in which every output counts."""
    wanted = [t for t in tensors(args) if t.requires_grad]
    loss = sum((k + 1) * output.sin().sum() for k, output in enumerate(outputs))
    return list(torch.autograd.grad(loss, [*wanted, *module.parameters()]))


def after(
    module: nn.Module,
    call: Callable[..., Any],
    args: tuple[Any, ...],
    write: Callable[[list[Tensor], list[Tensor]], None],
) -> list[Tensor]:
    """Gradients of a call after which `write` wrote to its inputs or outputs."""
    outputs = tensors(call(*args))
    write(tensors(args), outputs)
    return gradients(module, args, outputs)


def copied(module: nn.Module) -> Callable[..., list[Tensor]]:
    return lambda *args: [output.clone() for output in tensors(module(*args))]


def to_output(place: int) -> Callable[[list[Tensor], list[Tensor]], None]:
    def write(_: list[Tensor], outputs: list[Tensor]) -> None:
        outputs[place].mul_(3)
        outputs[place][..., 1:3] = 0

    return write


def to_input(place: int) -> Callable[[list[Tensor], list[Tensor]], None]:
    @torch.no_grad()
    def write(inputs: list[Tensor], _: list[Tensor]) -> None:
        inputs[place].fill_(7.0)

    return write


def right_or_refused(found: Callable[[], list[Tensor]], truth: list[Tensor]) -> None:
    try:
        result = found()
    except RuntimeError as error:
        assert STALE in str(error)
    else:
        assert_same(result, truth)


def check_every_write(kind: str, form: Form, compiling: Callable[[Any], Any]) -> None:
    """All outputs and inputs, one at a time, written to after a call of the compiled module."""
    ours, theirs = twins(kind, 4, 6, **form.options)
    compiled = compiling(ours)
    args = arguments(kind, form)
    for place in range(len(tensors(theirs(*args)))):
        # Of copies, as torch.nn itself refuses some.
        truth = after(theirs, copied(theirs), args, to_output(place))
        assert_same(after(ours, compiled, args, to_output(place)), truth)
    truth = gradients(theirs, args, tensors(theirs(*args)))
    for place in range(len(tensors(args))):
        again = arguments(kind, form)
        right_or_refused(lambda: after(ours, compiled, again, to_input(place)), truth)  # noqa: B023


@pytest.mark.parametrize("kind", ALL)
def test_after_a_compiled_call(kind: str) -> None:
    for form in forms(kind).values():
        torch._dynamo.reset()
        check_every_write(kind, form, lambda module: torch.compile(module, backend="aot_eager"))


@pytest.mark.parametrize("kind", ["GRU", "LSTM", "RNN", "GRUCell"])
def test_after_a_call_compiled_by_inductor(kind: str) -> None:
    chosen = forms(kind)
    for name in chosen.keys() & {"one", "unbatched", "batch first, one row", "two layers"}:
        torch._dynamo.reset()
        check_every_write(kind, chosen[name], torch.compile)


@pytest.mark.parametrize("kind", ALL)
def test_after_an_eager_call(kind: str) -> None:
    for form in forms(kind).values():
        check_every_write(kind, form, lambda module: module)


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
@pytest.mark.parametrize("kind", ["GRU", "LSTM"])
def test_inside_a_compiled_function(kind: str, backend: str) -> None:
    ours, theirs = twins(kind, 4, 6, num_layers=2)
    args = arguments(kind, FORMS["two layers"])

    def run(module: nn.Module) -> list[Tensor]:
        y, state = module(*args)
        y.mul_(3)
        y[1:] = 0
        tensors(state)[0].add_(1)
        return [y, *tensors(state)]

    found = gradients(ours, args, torch.compile(run, backend=backend)(ours))
    assert_same(found, gradients(theirs, args, run(theirs)))


@pytest.mark.parametrize("kind", LAYERS)
def test_large_outputs(kind: str) -> None:
    ours, theirs = twins(kind, LARGE[2], LARGE[2], bidirectional=True)
    args = (torch.randn(LARGE, dtype=DOUBLE).requires_grad_(),)
    results = []
    for module in (ours, theirs):
        y, states = module(*args)
        y += args[0].mean()
        y[1:] *= 2
        y.relu_()
        results.append(gradients(module, args, [y, *tensors(states)]))
    assert_same(*results)


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("large", [False, True])
def test_packed_outputs(kind: str, large: bool) -> None:
    steps, batch, features = LARGE if large else (5, 3, 4)
    ours, theirs = twins(kind, features, features, batch_first=True)
    x = torch.randn(batch, steps, features, dtype=DOUBLE).requires_grad_()
    lengths = torch.arange(steps, steps - batch, -1)
    results = []
    for module in (ours, theirs):
        y, states = module(pack_padded_sequence(x, lengths, batch_first=True))
        y.data.relu_()
        results.append(gradients(module, (x,), [y.data, *tensors(states)]))
    assert_same(*results)


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("large", [False, True])
def test_a_write_past_autograd(kind: str, large: bool) -> None:
    """What shares memory with an output is the caller's too, and second derivatives stay right."""
    steps, batch, features = LARGE if large else (5, 3, 4)
    ours, _ = twins(kind, features, features)
    x = torch.randn(steps, batch, features, dtype=DOUBLE).requires_grad_()
    weight = torch.randn(steps, batch, features, dtype=DOUBLE)
    results = []
    for written in (False, True):
        y, _ = ours(x)
        loss = (y * weight).sum()
        if written:
            y.detach().numpy()[:] = 5
        (dx,) = torch.autograd.grad(loss, x, create_graph=True)
        results.append([dx, *torch.autograd.grad(dx.square().sum(), [x, *ours.parameters()])])
    assert_same(*results)
