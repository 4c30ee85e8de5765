# SPDX-License-Identifier: MIT
"""What explain says of a call is what the call does, errors included."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from cases import need
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence

import fused_rnn
from fused_rnn import explain
from fused_rnn._call import stack

X = torch.randn(5, 3, 4)
LENGTHS = torch.tensor([5, 0, 2])
MARKS = torch.zeros(5, 3, dtype=torch.bool).index_fill(0, torch.tensor([2]), True)
STATES = torch.randn(5, 1, 3, 6)

# A call, and why PyTorch's layers cannot serve it; None where they can.
CALLS: dict[str, tuple[dict[str, Any], str | None]] = {
    "plain": ({}, None),
    "lengths": ({"lengths": LENGTHS}, None),
    "resets": ({"resets": MARKS}, "no resets inside a sequence"),
    # Pieces between marks are rows of their own, without marks.
    "reset_states": ({"resets": MARKS, "reset_states": STATES}, None),
    "return_states": ({"return_states": True}, None),
}


@pytest.mark.parametrize("backend", ["auto", "torch", "reference"])
@pytest.mark.parametrize("name", CALLS)
@pytest.mark.filterwarnings("ignore:fused_rnn. no fused kernel:RuntimeWarning")
def test_calls_of_layers(name: str, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = fused_rnn.FusedGRU(4, 6, backend=backend)
    keywords, refusal = CALLS[name]
    if backend == "torch" and refusal is not None:
        for call in (layer, lambda *a, **k: explain(layer, *a, **k)):
            with pytest.raises(RuntimeError, match=refusal):
                call(X, **keywords)
        return
    first = explain(layer, X, **keywords).splitlines()[0]
    assert backend == "auto" or first == f"{backend} runs this"
    ran: list[str] = []

    def run(*args: Any, **options: Any) -> Any:
        ran.append(options["backend"].name)
        return one_layer(*args, **options)

    one_layer = stack.run_layer
    monkeypatch.setattr(stack, "run_layer", run)
    layer(X, **keywords)
    assert first == f"{ran[0]} runs this"


@pytest.mark.filterwarnings("ignore:fused_rnn. no fused kernel:RuntimeWarning")
def test_nothing_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*args: Any, **keywords: Any) -> None:
        raise AssertionError("a kernel ran")

    monkeypatch.setattr("fused_rnn._call.stack.run_layer", run)
    monkeypatch.setattr("fused_rnn.nn.cells.run_layer", run)
    layer = fused_rnn.FusedLSTM(4, 6, num_layers=2, bidirectional=True, batch_first=True)
    cell = fused_rnn.FusedLSTMCell(4, 6)
    state = torch.get_rng_state()
    assert "runs this" in explain(layer, X)
    assert "runs this" in explain(layer, pack_sequence([X[:, 0]]))
    assert "runs this" in explain(layer, X[0])
    assert "runs this" in explain(cell, X[0])
    assert torch.equal(state, torch.get_rng_state())
    with pytest.raises(AssertionError, match="a kernel ran"):
        fused_rnn.FusedLSTM(4, 6)(X)


WRONG: dict[str, tuple[Callable[..., nn.Module], tuple[Any, ...], dict[str, Any]]] = {
    "features": (fused_rnn.FusedGRU, (torch.randn(5, 3, 7),), {}),
    "dimensions": (fused_rnn.FusedGRU, (torch.randn(5),), {}),
    "state": (fused_rnn.FusedGRU, (X, torch.randn(1, 2, 6)), {}),
    "no pair": (fused_rnn.FusedLSTM, (X, torch.randn(1, 3, 6)), {}),
    "lengths": (fused_rnn.FusedRNN, (X,), {"lengths": torch.tensor([9, 1, 1])}),
    "resets": (fused_rnn.FusedRNN, (X,), {"resets": MARKS[1:]}),
    "keyword": (fused_rnn.FusedRNN, (X,), {"length": LENGTHS}),
    "cell": (fused_rnn.FusedGRUCell, (torch.randn(3, 7),), {}),
    "backend": (lambda *a: fused_rnn.FusedGRU(*a, backend="triton"), (X,), {}),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_forward_raises(name: str) -> None:
    build, arguments, keywords = WRONG[name]
    module = build(4, 6)
    with pytest.raises(Exception, match=r"\w") as ours:
        module(*arguments, **keywords)
    with pytest.raises(type(ours.value)) as said:
        explain(module, *arguments, **keywords)
    assert str(said.value) == str(ours.value)


def test_under_autocast() -> None:
    layer = fused_rnn.FusedLSTM(4, 6, proj_size=2, backend="torch")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert explain(layer, X).startswith("torch runs this")


def test_weights_that_are_kept_packed() -> None:
    need("native")
    layer, cell = fused_rnn.FusedGRU(4, 6, num_layers=2, dropout=0.5), fused_rnn.FusedGRUCell(4, 6)
    kept = "native runs this\n  on weights that `prepacked` keeps"
    with torch.no_grad(), fused_rnn.prepacked(layer), fused_rnn.prepacked(cell):
        assert explain(layer, X) == "native runs this"  # dropout draws between the layers
        assert explain(layer.eval(), X, lengths=LENGTHS) == kept
        assert explain(cell, X[0]) == kept
    with torch.no_grad():
        assert explain(layer, X) == "native runs this"


@pytest.mark.filterwarnings("ignore:fused_rnn. no fused kernel:RuntimeWarning")
def test_quantized_layers() -> None:
    layer = fused_rnn.quantize(fused_rnn.FusedLSTM(4, 6).eval())
    with torch.no_grad():
        assert "runs this with int8 weights" in explain(layer, X, lengths=LENGTHS)
        with pytest.raises(RuntimeError, match="return_states"):
            explain(layer, X, return_states=True)
    with pytest.raises(RuntimeError, match="call eval"):
        explain(layer.train(), X)


def test_a_forward_of_a_subclass_is_not_called() -> None:
    class Own(fused_rnn.FusedGRU):
        def forward(self, input: Tensor) -> Any:  # type: ignore[override]
            raise AssertionError("called")

    assert "runs this" in explain(Own(4, 6), X)


def test_calls_after_it_run() -> None:
    layer = fused_rnn.FusedGRU(4, 6)
    before = layer(X)[0]
    explain(layer, X)
    with pytest.raises(ValueError, match="lengths"):
        explain(layer, X, lengths=torch.tensor([-1, 1, 1]))
    assert torch.equal(layer(X)[0], before)
