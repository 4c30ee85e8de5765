# SPDX-License-Identifier: MIT
"""Pairs of a fused module and its twin in torch.nn, and what it takes to find them equal."""

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

import fused_rnn
from fused_rnn.testing import assert_within_budget

LAYERS = {
    "RNN": (fused_rnn.FusedRNN, nn.RNN),
    "GRU": (fused_rnn.FusedGRU, nn.GRU),
    "LSTM": (fused_rnn.FusedLSTM, nn.LSTM),
}
CELLS = {
    "RNNCell": (fused_rnn.FusedRNNCell, nn.RNNCell),
    "GRUCell": (fused_rnn.FusedGRUCell, nn.GRUCell),
    "LSTMCell": (fused_rnn.FusedLSTMCell, nn.LSTMCell),
}
ALL = LAYERS | CELLS

# In float64 the results of both are equal to the last digits, whatever backend runs.
DOUBLE = torch.float64


class Tagger(nn.Module):
    """A model with layers at several depths, one of them twice, and tied weights."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 3)
        self.encoder = nn.Sequential(nn.Linear(3, 3), nn.LSTM(3, 5, 2, bidirectional=True))
        self.shared = nn.GRU(10, 10)
        self.layers = nn.ModuleDict({"again": self.shared, "other": nn.RNN(10, 10, 1, "relu")})
        self.tied = nn.GRU(10, 10)
        self.tied.weight_hh_l0 = self.shared.weight_hh_l0
        self.cell = nn.GRUCell(10, 10)
        self.missing = None
        self.register_module("absent", None)

    def forward(self, tokens: Tensor) -> Tensor:
        y = self.encoder(self.embedding(tokens))[0]
        for layer in (self.shared, self.layers["again"], self.layers["other"], self.tied):
            y = layer(y)[0]
        return self.cell(y[-1])


def twins(kind: str, *args: Any, **options: Any) -> tuple[Any, Any]:
    """A fused module and its twin, equal weights in float64 unless `dtype` says otherwise."""
    fused, plain = ALL[kind]
    options.setdefault("dtype", DOUBLE)
    ours = fused(*args, **options)
    twin = plain(*args, **options)
    twin.load_state_dict(ours.state_dict())
    return ours, twin


def state(kind: str, *shape: int, **options: Any) -> Any:
    """A random hx of the form that `kind` takes, of float64."""
    options.setdefault("dtype", DOUBLE)
    if kind.startswith("LSTM"):
        return torch.randn(*shape, **options), torch.randn(*shape, **options)
    return torch.randn(*shape, **options)


def tensors(result: Any) -> list[Tensor]:
    """All tensors of a nested result, in order."""
    return list(_walk(result))


def _walk(result: Any) -> Iterator[Tensor]:
    if isinstance(result, Tensor):
        yield result
    elif isinstance(result, tuple | list):
        for part in result:
            yield from _walk(part)


def assert_same(ours: Any, theirs: Any, name: str = "result") -> None:
    """Both have the same types and nesting, and in float64 the same values."""
    assert type(ours) is type(theirs), f"{name}: {type(ours)} is not {type(theirs)}"
    if isinstance(ours, tuple | list):
        assert len(ours) == len(theirs), name
        for index, pair in enumerate(zip(ours, theirs, strict=True)):
            assert_same(*pair, name=f"{name}[{index}]")
    elif isinstance(ours, Tensor):
        assert ours.dtype == theirs.dtype, f"{name}: {ours.dtype} is not {theirs.dtype}"
        if ours.dtype.is_floating_point:
            assert_within_budget(ours, theirs, name=name)
        else:
            assert torch.equal(ours, theirs), name


def assert_same_training(ours: nn.Module, theirs: nn.Module, *args: Any, **options: Any) -> None:
    """Both give the same results and, for one random loss, gradients of arguments and weights."""
    mine, yours = copy.deepcopy(args), copy.deepcopy(args)
    results = tensors(ours(*mine, **options)), tensors(theirs(*yours, **options))
    assert_same(*results)
    cotangents = [torch.randn(result.shape, dtype=DOUBLE) for result in results[0]]
    for module, outputs in ((ours, results[0]), (theirs, results[1])):
        module.zero_grad()
        pairs = [(t, c) for t, c in zip(outputs, cotangents, strict=True) if t.requires_grad]
        torch.autograd.backward(*zip(*pairs, strict=True))
    assert_same(grads(mine), grads(yours), "gradient of an argument")
    for (name, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert_same(p.grad, q.grad, f"gradient of {name}")


def grads(args: Any) -> list[Tensor | None]:
    """The gradients of all leaves in nested arguments."""
    return [leaf.grad for leaf in tensors(args)]


def outcome(call: Any) -> tuple[type[BaseException], str] | None:
    """The exception that `call` raises and its message; None if it returns."""
    try:
        call()
    except Exception as error:  # noqa: BLE001
        return type(error), str(error)
    return None
