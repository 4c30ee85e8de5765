# SPDX-License-Identifier: MIT
"""Constructors: torch.nn's signatures, checks in torch.nn's order, its messages and its text."""

import inspect
import warnings
from typing import Any

import pytest
import torch
from torch import nn
from twins import ALL, CELLS, LAYERS, outcome

import fused_rnn

SIZES = ["input_size", "hidden_size"]
OPTIONS = ["bias", "batch_first", "dropout", "bidirectional"]
SIGNATURES = {
    "RNN": [*SIZES, "num_layers", "nonlinearity", *OPTIONS, "device", "dtype"],
    "GRU": [*SIZES, "num_layers", *OPTIONS, "device", "dtype"],
    "LSTM": [*SIZES, "num_layers", *OPTIONS, "proj_size", "device", "dtype"],
    "RNNCell": [*SIZES, "bias", "nonlinearity", "device", "dtype"],
    "GRUCell": [*SIZES, "bias", "device", "dtype"],
    "LSTMCell": [*SIZES, "bias", "device", "dtype"],
}


@pytest.mark.parametrize("kind", ALL)
def test_positional_order(kind: str) -> None:
    parameters = inspect.signature(ALL[kind][0]).parameters.values()
    positional = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert positional == SIGNATURES[kind]
    assert "backend" in {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}


BAD = [
    dict(dropout="half"),
    dict(dropout=None),
    dict(dropout=True),
    dict(dropout=-0.1),
    dict(dropout=1.5),
    dict(dropout="0.5"),
    dict(bias=1),
    dict(batch_first=0),
    dict(input_size=3.0),
    dict(input_size=0),
    dict(hidden_size="5"),
    dict(hidden_size=-5),
    dict(num_layers=0),
    dict(num_layers=1.0),
    dict(num_layers="2"),
    # Two faults at once: which one is reported shows the order of the checks.
    dict(dropout=2, bias=1),
    dict(bias=1, batch_first=1),
    dict(batch_first=1, input_size=0),
    dict(input_size=0, hidden_size=0),
    dict(hidden_size=0, num_layers=0),
]
BAD_LSTM = [
    dict(proj_size=-1),
    dict(proj_size=5),
    dict(proj_size=9),
    dict(proj_size=-1, num_layers=0),
]
BAD_RNN = [
    dict(nonlinearity="sigmoid"),
    dict(nonlinearity="sigmoid", bias=1),
    dict(nonlinearity="sigmoid", proj_size=0),
]


@pytest.mark.parametrize(
    ("kind", "options"),
    [(kind, bad) for kind in LAYERS for bad in BAD]
    + [("LSTM", bad) for bad in BAD_LSTM]
    + [("RNN", bad) for bad in BAD_RNN]
    + [(kind, dict(proj_size=size)) for kind in ("RNN", "GRU") for size in (0, 2)],
    ids=str,
)
def test_bad_arguments_raise_what_torch_raises(kind: str, options: dict[str, Any]) -> None:
    ours, theirs = (
        outcome(lambda cls=cls: cls(**(dict(input_size=3, hidden_size=5) | options)))
        for cls in LAYERS[kind]
    )
    assert ours is not None
    assert ours == theirs


@pytest.mark.parametrize("kind", CELLS)
@pytest.mark.parametrize("sizes", [(3, -5), (3, 5.0), ("3", 5)], ids=str)
def test_bad_cell_sizes_raise_what_torch_raises(kind: str, sizes: tuple[Any, Any]) -> None:
    ours, theirs = (outcome(lambda cls=cls: cls(*sizes)) for cls in CELLS[kind])
    assert ours is not None
    assert ours == theirs


@pytest.mark.parametrize("kind", ALL)
def test_unknown_backend(kind: str) -> None:
    with pytest.raises(ValueError, match="backend: expected one of .*'cuda'"):
        ALL[kind][0](3, 5, backend="cuda")


@pytest.mark.parametrize("kind", LAYERS)
def test_dropout_of_a_single_layer_warns_as_torch_does(kind: str) -> None:
    messages = []
    for cls in LAYERS[kind]:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            cls(3, 5, dropout=0.5)
        messages.append([(w.category, str(w.message)) for w in caught])
    assert messages[0] == messages[1]
    assert len(messages[0]) == 1


@pytest.mark.parametrize("kind", LAYERS)
def test_unchecked_arguments_stay_unchecked(kind: str) -> None:
    for cls in LAYERS[kind]:
        module = cls(True, 5, bidirectional=1)
        assert module.weight_ih_l0_reverse.shape == module.weight_ih_l0.shape
        assert module.weight_ih_l0.shape[1] == 1


@pytest.mark.parametrize("kind", LAYERS)
def test_attributes(kind: str) -> None:
    options = dict(num_layers=2, bias=False, batch_first=True, dropout=1, bidirectional=True)
    if kind == "LSTM":
        options["proj_size"] = 2
    ours, theirs = (cls(3, 5, **options) for cls in LAYERS[kind])
    for name in ("mode", "input_size", "hidden_size", "proj_size", *options):
        value = getattr(ours, name)
        assert value == getattr(theirs, name)
        assert type(value) is type(getattr(theirs, name))
    assert repr(ours) == "Fused" + repr(theirs)


def test_nonlinearity_positional_and_mode() -> None:
    for cls in LAYERS["RNN"]:
        module = cls(3, 5, 2, "relu", False)
        assert (module.mode, module.nonlinearity, module.bias) == ("RNN_RELU", "relu", False)
    assert LAYERS["RNN"][0](3, 5).mode == "RNN_TANH"


@pytest.mark.parametrize("kind", CELLS)
def test_cell_attributes(kind: str) -> None:
    options = dict(nonlinearity="relu") if kind == "RNNCell" else {}
    ours, theirs = (cls(3, 5, False, **options) for cls in CELLS[kind])
    assert (ours.input_size, ours.hidden_size, ours.bias) == (3, 5, False)
    assert ours.bias_ih is None and ours.bias_hh is None
    assert repr(ours) == "Fused" + repr(theirs)


def test_options_of_our_own_show_in_the_text() -> None:
    module = fused_rnn.FusedGRU(3, 5, reset_after=False, backend="reference")
    assert repr(module) == "FusedGRU(3, 5, backend=reference, reset_after=False)"
    cell = fused_rnn.FusedGRUCell(3, 5, reset_after=False)
    assert repr(cell) == "FusedGRUCell(3, 5, reset_after=False)"


@pytest.mark.parametrize("kind", ALL)
def test_skip_init(kind: str) -> None:
    # torch.nn's own layers hide their `device` behind **kwargs and are refused.
    module = nn.utils.skip_init(ALL[kind][0], 3, 5)
    assert all(p.device.type == "cpu" for p in module.parameters())


@pytest.mark.parametrize("kind", ALL)
def test_device_and_dtype(kind: str) -> None:
    cls = ALL[kind][0]
    assert {p.dtype for p in cls(3, 5, dtype=torch.float64).parameters()} == {torch.float64}
    assert {p.device.type for p in cls(3, 5, device="meta").parameters()} == {"meta"}
    with torch.device("meta"):
        assert {p.device.type for p in cls(3, 5).parameters()} == {"meta"}
    default = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float64)
        assert {p.dtype for p in cls(3, 5).parameters()} == {torch.float64}
    finally:
        torch.set_default_dtype(default)


@pytest.mark.parametrize("kind", LAYERS)
def test_is_a_recurrent_layer_but_no_subclass_of_the_twin(kind: str) -> None:
    # torch.compile refuses to trace what derives from the twin.
    ours, theirs = LAYERS[kind]
    assert issubclass(ours, nn.RNNBase) and not issubclass(ours, theirs)
