# SPDX-License-Identifier: MIT
"""A fused module passes for its twin in torch.nn where isinstance asks, and is itself elsewhere."""

import abc
import copy
import functools
import operator
import pickle
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.nn.utils import parametrizations, parametrize
from twins import ALL, CELLS, LAYERS, assert_same, assert_same_training, tensors, twins

import fused_rnn

MODULE = fused_rnn.FusedGRU(3, 5)


def weight(kind: str) -> str:
    return "weight_hh" if kind in CELLS else "weight_hh_l0"


def parametrized(kind: str) -> nn.Module:
    return parametrizations.weight_norm(ALL[kind][0](3, 5), weight(kind))


def parametrized_no_more(kind: str) -> nn.Module:
    return parametrize.remove_parametrizations(parametrized(kind), weight(kind))


def of_a_subclass(kind: str) -> nn.Module:
    return type("Mine", (ALL[kind][0],), {})(3, 5)


FORMS: dict[str, Callable[[str], nn.Module]] = {
    "built": lambda kind: ALL[kind][0](3, 5),
    "fused": lambda kind: fused_rnn.fuse(nn.Sequential(ALL[kind][1](3, 5)))[0],
    "fused by itself": lambda kind: fused_rnn.fuse(ALL[kind][1](3, 5)),
    "of a subclass": of_a_subclass,
    "parametrized": parametrized,
    "parametrized no more": parametrized_no_more,
    "parametrized, then fused": lambda kind: fused_rnn.fuse(
        parametrizations.weight_norm(ALL[kind][1](3, 5), weight(kind))
    ),
    "copied": lambda kind: copy.deepcopy(ALL[kind][0](3, 5)),
    "copied, parametrized": lambda kind: copy.deepcopy(parametrized(kind)),
    "pickled": lambda kind: pickle.loads(pickle.dumps(ALL[kind][0](3, 5))),
    "a replica": lambda kind: ALL[kind][0](3, 5)._replicate_for_data_parallel(),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", ALL)
def test_isinstance(kind: str, form: str) -> None:
    module, (fused, plain) = FORMS[form](kind), ALL[kind]
    others = tuple(twin for _, twin in ALL.values() if twin is not plain)
    assert isinstance(module, plain) and isinstance(module, fused)
    assert isinstance(module, (nn.Linear, plain)) and isinstance(module, nn.Linear | plain)
    assert list(filter(functools.partial(isinstance, module), (plain, *others))) == [plain]
    assert not isinstance(module, others) and not isinstance(module, nn.Linear | nn.Conv1d)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", ALL)
def test_what_reads_the_class_sees_the_true_one(kind: str, form: str) -> None:
    module, (fused, plain) = FORMS[form](kind), ALL[kind]
    assert module.__class__ is type(module) and issubclass(module.__class__, fused)
    assert not issubclass(module.__class__, plain)
    assert module.__class__.__name__ in repr(module)
    assert "forward" in module.__class__.forward.__qualname__


@pytest.mark.parametrize("kind", ALL)
def test_match_statement(kind: str) -> None:
    fused, plain = ALL[kind]
    others = [twin for _, twin in ALL.values() if twin is not plain]
    for cls, expected in ((plain, 5), (fused, 5), (others[0], None)):
        match fused(3, 5):
            case cls(hidden_size=size):
                found = size
            case _:
                found = None
        assert found == expected


@pytest.mark.parametrize("traced", [False, True])
def test_in_long_and_hot_code(traced: bool) -> None:
    """What the interpreter makes of instructions: prefixes, caches, specialised and traced ones."""
    names = "\n".join(f"    n{i} = m if m is None else m.a{i} if not m else 0" for i in range(300))
    source = f"""def run(m, cls, true):
{names}
    read = m.__class__
    assert read is true and m.__class__.__name__ == true.__name__
    assert isinstance(m, cls) and not isinstance(m, complex) and isinstance(*(m, cls))
    assert [isinstance(one, cls) for one in (m, m)] == [True, True]
"""
    space: dict[str, Any] = {}
    exec(source, space)
    before = sys.gettrace()
    sys.settrace((lambda *_: lambda *_: None) if traced else before)
    try:
        for _ in range(100):
            space["run"](MODULE, nn.GRU, fused_rnn.FusedGRU)
    finally:
        sys.settrace(before)


def test_readers_in_c() -> None:
    getters = (operator.attrgetter("__class__"), functools.partial(getattr, MODULE))
    assert getters[0](MODULE) is fused_rnn.FusedGRU
    assert getters[1]("__class__") is fused_rnn.FusedGRU


@pytest.mark.parametrize("kind", ALL)
def test_abstract_classes_and_dispatch(kind: str) -> None:
    fused, plain = ALL[kind]

    class Recurrent(abc.ABC):  # noqa: B024
        """Who registers a class has its instances counted in."""

    @functools.singledispatch
    def name(module: nn.Module) -> str:
        return "module"

    name.register(plain, lambda module: "twin")
    assert not isinstance(fused(3, 5), Recurrent)
    Recurrent.register(plain)
    assert isinstance(fused(3, 5), Recurrent)
    # It reads the class, and so sees what torch.nn's is no base of.
    assert name(fused(3, 5)) == "module"
    name.register(fused, lambda module: "fused")
    assert name(fused(3, 5)) == "fused"


class Doubled(fused_rnn.FusedLSTM):
    """A subclass that calls its base throughout."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.factor = 2

    def forward(self, input: Tensor, *rest: Any, **options: Any) -> Any:
        assert isinstance(self, nn.LSTM) and self.__class__ is not nn.LSTM
        return super().forward(input * self.factor, *rest, **options)

    def extra_repr(self) -> str:
        return super().extra_repr() + f", factor={self.factor}"


def test_subclass() -> None:
    module = Doubled(3, 5, dtype=torch.float64)
    plain = fused_rnn.FusedLSTM(3, 5, dtype=torch.float64)
    plain.load_state_dict(module.state_dict())
    x = torch.randn(4, 2, 3, dtype=torch.float64)
    for one in (module, copy.copy(module), pickle.loads(pickle.dumps(module))):
        assert type(one) is Doubled
        assert_same(one(x), plain(x * 2))
    assert repr(module) == "Doubled(3, 5, factor=2)"


@pytest.mark.parametrize("kind", ALL)
def test_class_is_assigned(kind: str) -> None:
    fused, plain = ALL[kind]
    module = fused(3, 5)
    derived = type("Derived", (fused,), {})
    module.__class__ = derived
    assert type(module) is derived and isinstance(module, plain)
    with pytest.raises(TypeError, match="__class__"):
        module.__class__ = 3


class Reader(nn.Module):
    """Keeps the first state of a pair, as isinstance has it."""

    def __init__(self, kind: str, rnn: nn.Module) -> None:
        super().__init__()
        self.rnn, self.kind = rnn, kind

    def forward(self, x: Tensor) -> Tensor:
        result = self.rnn(x)
        state = result if self.kind in CELLS else result[1]
        if isinstance(self.rnn, nn.LSTM) or isinstance(self.rnn, nn.LSTMCell):
            return state[0]
        return state


class Together(Reader):
    """The same, for a tuple of classes."""

    def forward(self, x: Tensor) -> Tensor:
        result = self.rnn(x)
        state = result if self.kind in CELLS else result[1]
        return state[0] if isinstance(self.rnn, (nn.LSTM, nn.LSTMCell)) else state


def readers(kind: str, cls: type[Reader] = Reader) -> tuple[Reader, Reader, Tensor]:
    """A model with a fused module, its twin, and an input."""
    torch._dynamo.reset()
    ours, theirs = twins(kind, 3, 5)
    x = torch.randn(*((2, 3) if kind in CELLS else (4, 2, 3)), dtype=torch.float64)
    return cls(kind, ours), cls(kind, theirs), x.requires_grad_()


@pytest.mark.parametrize("kind", ALL)
def test_a_branch_in_compiled_code(kind: str) -> None:
    ours, theirs, x = readers(kind)
    counter = CompileCounterWithBackend("aot_eager")
    fast: Any = torch.compile(ours, backend=counter, fullgraph=True)
    fast.named_parameters = ours.named_parameters
    assert_same_training(fast, theirs, x)
    assert counter.frame_count == 1


def test_a_tuple_of_classes_in_compiled_code() -> None:
    """It is told of the true class, as README says: torch.compile asks issubclass of that."""
    ours, theirs, x = readers("LSTM", Together)
    assert_same(ours(x), theirs(x))
    told = torch.compile(ours, backend="eager", fullgraph=True)(x)
    assert isinstance(told, tuple)
    assert_same(told[0], theirs(x))


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("kind", ALL)
def test_a_branch_in_exported_code(kind: str, strict: bool) -> None:
    ours, theirs, x = readers(kind)
    program = torch.export.export(ours, (x.detach(),), strict=strict)
    assert_same(program.module()(x), theirs(x))


@pytest.mark.parametrize("kind", ALL)
def test_the_class_read_in_compiled_code(kind: str) -> None:
    ours, _, x = readers(kind)

    def run(x: Tensor) -> Tensor:
        assert isinstance(ours.rnn, fused_rnn.FusedLSTM) == (kind == "LSTM")
        named = ours.rnn.__class__.__name__.startswith("Fused")
        return tensors(ours.rnn(x))[0] * (2 if named else 3)

    counter = CompileCounterWithBackend("eager")
    fast = torch.compile(run, backend=counter, fullgraph=True)
    for _ in range(3):
        assert_same(fast(x), tensors(ours.rnn(x))[0] * 2)
    assert counter.frame_count == 1


@pytest.mark.parametrize("kind", LAYERS)
def test_compiled_in_several_threads(kind: str) -> None:
    models = [readers(kind) for _ in range(4)]

    def work(number: int) -> None:
        ours, theirs, x = models[number]
        for _ in range(20):
            assert isinstance(ours.rnn, LAYERS[kind][1])
            assert ours.rnn.__class__ is LAYERS[kind][0]
        fast = torch.compile(ours, backend="eager", fullgraph=True)
        assert_same(fast(x), theirs(x))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
