# SPDX-License-Identifier: MIT
"""Conversions of modules that are compiled, or have a `forward` on the instance."""

import copy
import functools
import types
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.nn.utils import parametrizations
from twins import ALL, CELLS, assert_same, tensors

import fused_rnn

DOUBLE = torch.float64


@pytest.fixture(autouse=True)
def fresh() -> None:
    """No graph from another test."""
    torch._dynamo.reset()


def input_for(kind: str) -> Tensor:
    return torch.randn(*((2, 3) if kind in CELLS else (4, 2, 3)), dtype=DOUBLE)


def there(kind: str, module: Any) -> Any:
    return ALL[kind][0].from_torch(module)


def back(kind: str, module: Any) -> Any:
    return module.to_torch()


# What a module is built as, and how it is converted.
WAYS: dict[str, tuple[int, Callable[[str, Any], Any]]] = {"there": (1, there), "back": (0, back)}


def alone(module: Any, x: Tensor) -> Any:
    """What a fresh module of this class makes of x, with the same weights."""
    fresh = type(module)(3, 5, dtype=DOUBLE)
    fresh.load_state_dict(module.state_dict())
    return fresh(x)


def set_anew(module: Any) -> None:
    """Gives it weights that a module it was made of does not know."""
    for name, p in list(module.named_parameters()):
        setattr(module, name, nn.Parameter(torch.randn_like(p)))


def ops_in(counter: CompileCounterWithBackend) -> str:
    return " ".join(str(node.target) for graph in counter.graphs for node in graph.graph.nodes)


@pytest.mark.parametrize("kind", ALL)
def test_compiled_then_fused(kind: str) -> None:
    module = ALL[kind][1](3, 5, dtype=DOUBLE)
    counter = CompileCounterWithBackend("eager")
    module.compile(backend=counter, fullgraph=True)
    ours = fused_rnn.fuse(nn.Sequential(module))[0]
    x = input_for(kind)
    for _ in range(2):
        assert_same(ours(x), alone(ours, x))
        set_anew(ours)
    # The options it was compiled with went along.
    assert counter.frame_count >= 1
    assert "fused_rnn" in ops_in(counter) or fused_rnn.explain(ours, x).startswith("torch")


@pytest.mark.parametrize("kind", ALL)
def test_compiled_then_handed_back(kind: str) -> None:
    module = ALL[kind][0](3, 5, dtype=DOUBLE)
    counter = CompileCounterWithBackend("eager")
    module.compile(backend=counter)
    x = input_for(kind)
    module(x)
    theirs = module.to_torch()
    counter.clear()
    for _ in range(2):
        assert_same(theirs(x), alone(theirs, x))
        set_anew(theirs)
    assert "fused_rnn" not in ops_in(counter)


def test_compiled_but_disabled() -> None:
    module = nn.GRU(3, 5, dtype=DOUBLE)
    module.compile(disable=True)
    ours = fused_rnn.FusedGRU.from_torch(module)
    set_anew(ours)
    x = input_for("GRU")
    assert_same(ours(x), alone(ours, x))


@pytest.mark.parametrize("how", ["compile", "torch.compile"])
def test_a_compiled_model_around_it(how: str) -> None:
    model = nn.Sequential(nn.GRU(3, 5, dtype=DOUBLE))
    counter = CompileCounterWithBackend("eager")
    fast = torch.compile(model, backend=counter) if how == "torch.compile" else model
    if how == "compile":
        model.compile(backend=counter)
    x = input_for("GRU")
    before = fast(x)
    fused_rnn.fuse(fast)
    assert type(model[0]) is fused_rnn.FusedGRU
    assert_same(fast(x), before)
    set_anew(model[0])
    assert_same(fast(x), alone(model[0], x))


@pytest.mark.parametrize("kind", ALL)
def test_copies_are_not_compiled(kind: str) -> None:
    module = ALL[kind][0](3, 5, dtype=DOUBLE)
    module.compile(backend="eager")
    x = input_for(kind)
    for copied in (copy.copy(module), copy.deepcopy(module)):
        set_anew(copied)
        assert_same(copied(x), alone(copied, x))


def bound(module: Any) -> None:
    module.forward = module.forward


def kept_under_another_name(module: Any) -> None:
    module._forward = module.forward
    module.forward = types.MethodType(lambda self, *args: self._forward(*args), module)


def hooked(module: Any) -> None:
    """As accelerate hooks a module."""
    old = module._old_forward = module.forward

    def new_forward(module: Any, *args: Any, **kwargs: Any) -> Any:
        return module._old_forward(*args, **kwargs)

    module.forward = functools.update_wrapper(functools.partial(new_forward, module), old)
    assert module.forward.__wrapped__ is old


def keyword(module: Any) -> None:
    def run(x: Tensor, own: Any) -> Any:
        return own(x)

    module.forward = functools.partial(run, own=module.forward)


def wrapped(module: Any) -> None:
    inner = module.forward

    @functools.wraps(inner)
    def forward(*args: Any, **options: Any) -> Any:
        forward.calls += 1
        return inner(*args, **options)

    forward.calls = 0
    module.forward = forward


def closed_over(module: Any) -> None:
    module.forward = lambda *args: type(module).forward(module, *args)


def with_a_default(module: Any) -> None:
    def forward(x: Tensor, run: Any = module.forward) -> Any:
        return run(x)

    module.forward = forward


def without_gradients(module: Any) -> None:
    module.forward = torch.no_grad()(module.forward)


def cast(module: Any) -> None:
    """As accelerate does for mixed precision: the class' function, decorated and bound again."""
    function = torch.autocast("cpu", enabled=False)(module.forward.__func__)
    module.forward = types.MethodType(function, module)


def compiled(module: Any) -> None:
    module.forward = torch.compile(module.forward, backend="eager")


def compiled_and_wrapped(module: Any) -> None:
    compiled(module)
    wrapped(module)


def kept_from_compiling(module: Any) -> None:
    module.forward = torch.compiler.disable(module.forward)


FORWARDS = [
    *(bound, kept_under_another_name, hooked, keyword, wrapped, closed_over, with_a_default),
    *(without_gradients, cast, compiled, compiled_and_wrapped, kept_from_compiling),
]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("forward", FORWARDS, ids=lambda forward: forward.__name__)
@pytest.mark.parametrize("kind", ["GRU", "LSTM", "RNNCell"])
def test_a_forward_on_the_instance(
    kind: str, forward: Callable[[Any], None], way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    index, convert = WAYS[way]
    module = ALL[kind][index](3, 5, dtype=DOUBLE)
    forward(module)
    x = input_for(kind)
    module(x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        new = convert(kind, module)
    set_anew(new)
    expected = alone(new, x)

    if way == "there":
        # What torch.nn's classes run on.
        monkeypatch.setattr(torch.nn.modules.rnn, "_VF", None)
    assert_same(new(x), expected)
    assert "forward" in new.__dict__


def test_a_forward_that_is_free_of_the_module() -> None:
    module = nn.GRU(3, 5)
    module.forward = Opaque(module)
    with pytest.warns(UserWarning, match="forward: expected one bound to this GRU, got .*Opaque"):
        ours = fused_rnn.FusedGRU.from_torch(module)
    assert ours.forward is module.forward


class Opaque:
    """Holds a module where nobody looks."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __call__(self, x: Tensor) -> Any:
        return type(self.module).forward(self.module, x)


def test_other_attributes() -> None:
    module = nn.GRU(3, 5)
    module.count = module.flatten_parameters
    module.activation = torch.tanh
    module.scale = functools.partial(torch.mul, 2)
    ours = fused_rnn.FusedGRU.from_torch(module)
    assert ours.count == ours.flatten_parameters
    assert ours.activation is torch.tanh and ours.scale is module.scale


def test_parametrized_and_hooked() -> None:
    module = nn.GRU(3, 5, dtype=DOUBLE)
    parametrizations.weight_norm(module, "weight_hh_l0")
    hooked(module)
    ours = fused_rnn.FusedGRU.from_torch(module)
    with torch.no_grad():
        ours.bias_ih_l0 = nn.Parameter(torch.randn(15, dtype=DOUBLE))
    x = input_for("GRU")
    assert_same(tensors(ours(x)), tensors(type(ours).forward(ours, x)))
