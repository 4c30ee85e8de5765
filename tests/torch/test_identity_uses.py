# SPDX-License-Identifier: MIT
"""What programs do where isinstance tells an LSTM from others, before and after `fuse`."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from twins import LAYERS, assert_same

import fused_rnn

DOUBLE = torch.float64


def fused_twin(build: Callable[[], nn.Module]) -> tuple[nn.Module, nn.Module]:
    """Two models of the same weights in float64, one of them fused."""
    models = []
    for _ in range(2):
        torch.manual_seed(0)
        models.append(build().double())
    return fused_rnn.fuse(models[0]), models[1]


class Decoder(nn.Module):
    """Bridges an encoder's vector to its first state, a pair for the LSTM only."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.rnn = LAYERS[kind][1](3, 5, 2, batch_first=True)
        self.bridge = nn.Linear(4, 5)

    def start(self, context: Tensor) -> Any:
        state = torch.tanh(self.bridge(context)).expand(2, -1, -1).contiguous()
        return (state, state) if isinstance(self.rnn, nn.LSTM) else state

    def forward(self, x: Tensor, context: Tensor) -> list[Any]:
        state, seen = self.start(context), []
        for step in x.unbind(1):
            y, state = self.rnn(step.unsqueeze(1), state)
            seen.append((y, state[0] if isinstance(self.rnn, nn.LSTM) else state))
        return seen


class InputFeed(nn.Module):
    """Takes its state as a tuple, and knows whether the layer wants one tensor of it or two."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.rnn = LAYERS[kind][1](3, 5)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        zeros = x.new_zeros(1, x.size(1), 5)
        state: tuple[Tensor, ...] = (zeros,) if self.single else (zeros, zeros)
        for step in x.split(1):
            _, new = self.rnn(step, state[0] if self.single else state)
            state = (new,) if self.single else new
        return state

    @property
    def single(self) -> bool:
        return isinstance(self.rnn, nn.GRU) or isinstance(self.rnn, nn.RNN)


class Batched(nn.Module):
    """Stacks the states of several hypotheses into one batch, and parts them again."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.rnn = LAYERS[kind][1](3, 5)

    def zero(self) -> Any:
        zeros = torch.zeros(1, 5, dtype=DOUBLE)
        return (zeros, zeros) if isinstance(self.rnn, nn.LSTM) else zeros

    def forward(self, x: Tensor) -> list[Any]:
        states = [self.zero() for _ in range(x.size(1))]
        if isinstance(self.rnn, nn.LSTM):
            state: Any = tuple(torch.stack([s[i] for s in states], 1) for i in range(2))
        else:
            state = torch.stack(states, 1)
        y, state = self.rnn(x, state)
        return [y, *(state if isinstance(self.rnn, nn.LSTM) else (state,))]


class Masked(nn.Module):
    """Has a layer of its own for marked steps, and splits the sequences for torch.nn's."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.rnn = LAYERS[kind][1](3, 5)

    def forward(self, x: Tensor, first: Tensor) -> Tensor:
        if not isinstance(self.rnn, LAYERS[type(self).kind][1]):
            return self.rnn(x, mask=first)[0]
        starts = [0, *first.nonzero().flatten().tolist(), len(x)]
        pieces = [x[a:b] for a, b in zip(starts, starts[1:], strict=False) if b > a]
        return torch.cat([self.rnn(piece)[0] for piece in pieces])

    kind = "LSTM"


@pytest.mark.parametrize("kind", LAYERS)
def test_decoder(kind: str) -> None:
    ours, theirs = fused_twin(lambda: Decoder(kind))
    x, context = torch.randn(2, 4, 3, dtype=DOUBLE), torch.randn(2, 4, dtype=DOUBLE)
    assert_same(ours(x, context), theirs(x, context))


@pytest.mark.parametrize("model", [InputFeed, Batched])
@pytest.mark.parametrize("kind", LAYERS)
def test_states_as_tuples(kind: str, model: type[nn.Module]) -> None:
    ours, theirs = fused_twin(lambda: model(kind))
    x = torch.randn(4, 2, 3, dtype=DOUBLE)
    assert_same(ours(x), theirs(x))


def test_a_mask_for_layers_of_their_own() -> None:
    ours, theirs = fused_twin(lambda: Masked("LSTM"))
    x, first = torch.randn(6, 2, 3, dtype=DOUBLE), torch.tensor([0, 0, 1, 0, 1, 0])
    assert_same(ours(x, first), theirs(x, first))


def xavier(module: nn.Module) -> None:
    if isinstance(module, nn.LSTM | nn.GRU | nn.RNN):
        for name, p in module.named_parameters():
            nn.init.zeros_(p) if "bias" in name else nn.init.xavier_uniform_(p)


def orthogonal(module: nn.Module) -> None:
    if isinstance(module, (nn.RNNCell, nn.GRUCell, nn.LSTMCell)):
        nn.init.orthogonal_(module.weight_hh)


def forget(module: nn.Module) -> None:
    if isinstance(module, nn.LSTM):
        for name, p in module.named_parameters():
            if "bias" in name:
                nn.init.constant_(p[p.numel() // 4 : p.numel() // 2], math.e)


class Several(nn.Module):
    """One of each."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([plain(3, 5, 2) for _, plain in LAYERS.values()])
        self.cells = nn.ModuleList([nn.RNNCell(3, 5), nn.GRUCell(3, 5), nn.LSTMCell(3, 5)])


@pytest.mark.parametrize("initialiser", [xavier, orthogonal, forget])
def test_initialisers(initialiser: Callable[[nn.Module], None]) -> None:
    ours, theirs = fused_twin(Several)
    before = {name: p.clone() for name, p in ours.state_dict().items()}
    with torch.no_grad():
        for model in (ours, theirs):
            torch.manual_seed(1)
            model.apply(initialiser)
    for (name, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert torch.equal(p, q), name
    assert any(not torch.equal(p, before[name]) for name, p in ours.named_parameters())


def test_initialised_on_meta_first() -> None:
    """A head that no checkpoint holds: memory, until what knows its class fills it."""
    with torch.device("meta"):
        ours, theirs = fused_rnn.fuse(Several()), Several()
    for model in (ours, theirs):
        model.to_empty(device="cpu")
        for p in model.parameters():
            p.data.fill_(torch.nan)
        torch.manual_seed(1)
        model.apply(xavier)
    for p, q in zip(ours.layers.parameters(), theirs.layers.parameters(), strict=True):
        assert torch.equal(p, q) and not p.isnan().any()
