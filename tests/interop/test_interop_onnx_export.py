# SPDX-License-Identifier: MIT
"""Fused layers exported to ONNX with B and T open, beside ONNX Runtime."""

import io
import random
from typing import Any

import interop_rule
import pytest
import torch
from torch import Tensor, nn

from fused_rnn import FusedGRU, FusedLSTM, FusedLSTMCell, FusedRNN, FusedSLSTM
from fused_rnn._call import exporting
from fused_rnn.interop import from_onnx, onnx_translations

pytestmark = pytest.mark.interop
onnx = pytest.importorskip("onnx", reason="needs the extra `interop`")
runtime = pytest.importorskip("onnxruntime", reason="needs the extra `interop`")
pytest.importorskip("onnxscript", reason="needs the extra `interop`")

INPUTS, HIDDEN = 3, 5
OPEN = torch.export.Dim.DYNAMIC
LAYERS: dict[str, Any] = {
    "rnn": FusedRNN,
    "relu": lambda *args, **options: FusedRNN(*args, nonlinearity="relu", **options),
    "gru": FusedGRU,
    "textbook": lambda *args, **options: FusedGRU(*args, reset_after=False, **options),
    "lstm": FusedLSTM,
}
FORMS: dict[str, dict[str, Any]] = {
    "plain": {},
    "no bias": {"bias": False},
    "two layers": {"num_layers": 2, "batch_first": True},
    "both": {"bidirectional": True, "num_layers": 2},
    "reverse": {"direction": "reverse"},
}


def leaves(found: Any) -> list[Tensor]:
    y, last = found
    return [y, *(last if isinstance(last, tuple) else (last,))]


def export(model: nn.Module, args: tuple[Any, ...], shapes: Any) -> Any:
    """A session of the exported model."""
    program = torch.onnx.export(
        model.eval(),
        args,
        dynamo=True,
        dynamic_shapes=shapes,
        custom_translation_table=onnx_translations(),
        verbose=False,
    )
    data = io.BytesIO()
    program.save(data)
    onnx.checker.check_model(data.getvalue(), full_check=True)
    return runtime.InferenceSession(data.getvalue(), providers=["CPUExecutionProvider"])


def run(session: Any, *inputs: Tensor) -> list[Tensor]:
    names = [own.name for own in session.get_inputs()]
    given = {name: value.numpy() for name, value in zip(names, inputs, strict=True)}
    return [torch.from_numpy(one) for one in session.run(None, given)]


def check(found: list[Tensor], expected: list[Tensor]) -> None:
    for own, other in zip(found, expected, strict=True):
        interop_rule.check(own, other)


def states(layer: Any, batch: int) -> Any:
    rows = layer.num_layers * (2 if layer.bidirectional else 1)
    h = torch.randn(rows, batch, HIDDEN)
    return (h, torch.randn_like(h)) if isinstance(layer, nn.LSTM) else h


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", LAYERS)
def test_layers(name: str, form: str) -> None:
    torch.manual_seed(0)
    layer = LAYERS[name](INPUTS, HIDDEN, **FORMS[form])
    session = export(layer, (torch.randn(4, 6, INPUTS),), ({0: OPEN, 1: OPEN},))
    for sizes in ((4, 6), (9, 2), (1, 1)):
        x = torch.randn(*sizes, INPUTS)
        with torch.no_grad():
            check(run(session, x), leaves(layer(x)))


@pytest.mark.parametrize("backend", ["torch", "reference"])
@pytest.mark.parametrize("name", LAYERS)
def test_other_backends(name: str, backend: str) -> None:
    """As where the compiled extension is missing."""
    if (name, backend) == ("textbook", "torch"):
        pytest.skip("PyTorch has no GRU with the reset gate before the product")
    torch.manual_seed(0)
    layer = LAYERS[name](INPUTS, HIDDEN, 2, bidirectional=True, backend=backend)
    session = export(layer, (torch.randn(4, 6, INPUTS),), ({0: OPEN, 1: OPEN},))
    x = torch.randn(9, 2, INPUTS)
    with torch.no_grad():
        check(run(session, x), leaves(layer(x)))


@pytest.mark.parametrize("seed", range(16))
def test_random_models(seed: int) -> None:
    """Recurrent layers of any kind and form between other modules, out and back in."""
    torch.manual_seed(seed)
    chosen = random.Random(seed)
    name = chosen.choice([*LAYERS])
    inputs, hidden = chosen.randint(1, 9), chosen.randint(1, 9)
    form: dict[str, Any] = {
        "num_layers": chosen.randint(1, 3),
        "bias": chosen.random() < 0.7,
        "batch_first": chosen.random() < 0.5,
        **chosen.choice([{}, {"bidirectional": True}, {"direction": "reverse"}]),
    }
    layer = LAYERS[name](inputs, hidden, **form)
    model = nn.Sequential(nn.Linear(INPUTS, inputs), layer)
    session = export(model, (torch.randn(3, 4, INPUTS),), ({0: OPEN, 1: OPEN},))
    for _ in range(3):
        x = torch.randn(chosen.randint(1, 12), chosen.randint(1, 12), INPUTS)
        with torch.no_grad():
            check(run(session, x), leaves(model(x)))


class WithLengths(nn.Module):
    """A layer called with states and lengths."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor, hx: Any, lengths: Tensor) -> list[Tensor]:
        return leaves(self.layer(x, hx, lengths=lengths))


@pytest.mark.parametrize("name", LAYERS)
def test_states_and_lengths(name: str) -> None:
    """Rows without a step keep their states, which the runtimes' own nodes make zeros."""
    torch.manual_seed(1)
    layer = LAYERS[name](INPUTS, HIDDEN, bidirectional=True)
    model = WithLengths(layer)
    hx = states(layer, 4)
    given = (torch.randn(6, 4, INPUTS), hx, torch.tensor([6, 1, 3, 2]))
    state = {1: OPEN}
    shapes = ({0: OPEN, 1: OPEN}, (state, state) if isinstance(hx, tuple) else state, {0: OPEN})
    session = export(model, given, shapes)
    for steps, lengths in ((6, [6, 1, 3, 2]), (8, [0, 8, 5]), (1, [1])):
        x, hx = torch.randn(steps, len(lengths), INPUTS), states(layer, len(lengths))
        flat = hx if isinstance(hx, tuple) else (hx,)
        with torch.no_grad():
            expected = model(x, hx, torch.tensor(lengths))
        check(run(session, x, *flat, torch.tensor(lengths)), expected)


def test_large_weights_become_constants_that_are_read_again() -> None:
    """So that a model goes out and comes back."""
    torch.manual_seed(2)
    layer = FusedGRU(64, 300, reset_after=False).eval()
    program = torch.onnx.export(
        layer,
        (torch.randn(4, 2, 64),),
        dynamo=True,
        custom_translation_table=onnx_translations(),
        verbose=False,
    )
    again = from_onnx(program.model_proto)
    for own, other in zip(again.parameters(), layer.parameters(), strict=True):
        assert torch.equal(own, other)


class Stepping(nn.Module):
    """A cell in a model."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = FusedLSTMCell(INPUTS, HIDDEN)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.cell(x)


def test_cells() -> None:
    torch.manual_seed(3)
    model = Stepping()
    session = export(model, (torch.randn(4, INPUTS),), ({0: OPEN},))
    x = torch.randn(7, INPUTS)
    with torch.no_grad():
        check(run(session, x), list(model(x)))


def messages(error: BaseException | None) -> str:
    """Those of an error and of all that led to it."""
    found = []
    while error is not None:
        found.append(str(error))
        error = error.__cause__ or error.__context__
    return "\n".join(found)


class WithResets(nn.Module):
    """A layer called with marks."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = FusedGRU(INPUTS, HIDDEN)

    def forward(self, x: Tensor, resets: Tensor) -> Tensor:
        return self.layer(x, resets=resets)[0]


def test_what_onnx_has_no_node_for() -> None:
    x = torch.randn(4, 2, INPUTS)
    with pytest.raises(Exception) as caught:
        export(WithResets(), (x, torch.zeros(4, 2, dtype=torch.bool)), None)
    assert "resets: ONNX has no node that is cut inside a sequence" in messages(caught.value)
    with pytest.raises(Exception) as caught:
        export(FusedLSTM(INPUTS, HIDDEN, proj_size=2), (x,), None)
    assert "proj_size: ONNX has no LSTM with a projection" in messages(caught.value)
    with pytest.raises(Exception) as caught:
        export(FusedGRU(INPUTS, 4, block_diagonal=2), (x,), None)
    assert "block_diagonal: ONNX has no node with heads; got 2" in messages(caught.value)
    for layer in (FusedGRU(INPUTS, HIDDEN, layer_norm=True), FusedSLSTM(INPUTS, HIDDEN)):
        with pytest.raises(Exception) as caught:
            export(layer, (x,), None)
        assert "layer: ONNX has no node of cells with options" in messages(caught.value)


def test_without_the_table_the_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporting, "_translated", False)
    with pytest.raises(Exception) as caught:
        torch.onnx.export(
            FusedGRU(INPUTS, HIDDEN).eval(),
            (torch.randn(4, 2, INPUTS),),
            dynamo=True,
            verbose=False,
        )
    assert "custom_translation_table=fused_rnn.interop.onnx_translations()" in messages(
        caught.value
    )


def test_torchscripts_export_has_no_such_table() -> None:
    onnx_translations()
    with pytest.raises(RuntimeError, match="torch.onnx.export .* fused_rnn.unfuse"):
        torch.onnx.export(
            Stepping().eval(),
            (torch.randn(4, INPUTS),),
            io.BytesIO(),
            dynamo=False,
        )
