# SPDX-License-Identifier: MIT
"""TorchScript and ONNX, which know no fused module: the errors name the way out."""

import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.onnx._internal.exporter import _flags
from twins import ALL, CELLS, assert_same, twins

import fused_rnn

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


class Model(nn.Module):
    """A fused module, with its first output between linear layers."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.first = nn.Linear(3, 3, dtype=torch.float64)
        self.rnn, _ = twins(kind, 3, 5)
        self.last = nn.Linear(5, 2, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.rnn(self.first(x))[0])


def input_for(kind: str) -> Tensor:
    return torch.randn(*((2, 3) if kind in CELLS else (4, 2, 3)), dtype=torch.float64)


@pytest.mark.parametrize("kind", ALL)
def test_script(kind: str) -> None:
    model, x = Model(kind), input_for(kind)
    fused, expected = model.rnn, model(x)
    with pytest.raises(RuntimeError, match=f"Fused{kind}: .* fused_rnn.unfuse"):
        torch.jit.script(model)
    assert model.rnn is fused
    scripted = torch.jit.script(fused_rnn.unfuse(model))
    assert_same(scripted(x), expected)
    assert all(p is q for p, q in zip(fused.parameters(), model.rnn.parameters(), strict=True))


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("kind", ALL)
def test_trace_without_gradients(kind: str) -> None:
    model, x = Model(kind), input_for(kind)
    with torch.no_grad():
        assert_same(torch.jit.trace(model, x)(x * 2), model(x * 2))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("kind", ALL)
def test_onnx_by_torchscript(kind: str, grad: bool) -> None:
    model = Model(kind).requires_grad_(grad)
    with pytest.raises(RuntimeError, match="torch.onnx.export .* fused_rnn.unfuse"):
        torch.onnx.export(model, (input_for(kind),), io.BytesIO(), dynamo=False)


@pytest.mark.filterwarnings("ignore:The tensor attributes")
@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("kind", ["LSTM", "GRUCell"])
def test_onnx_by_export(kind: str, strict: bool) -> None:
    """What torch.onnx.export does first; the rest needs packages of ONNX."""
    model, x = Model(kind), input_for(kind)

    @_flags.set_onnx_exporting_flag
    def export() -> Any:
        return torch.export.export(model, (x,), strict=strict)

    with pytest.raises(Exception, match="torch.onnx.export .* fused_rnn.unfuse"):
        export()
    program = torch.export.export(model, (x,), strict=strict)
    assert_same(program.module()(x), model(x))
    fused_rnn.unfuse(model)
    assert_same(export().module()(x), model(x))
