# SPDX-License-Identifier: MIT
"""Quantized layers: their errors, and the same bits from every instruction set and batch."""

import copy
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from cases import need
from quantized_models import LAYERS, STORAGES, Call, build, by_hand, call, in_float64
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import fused_rnn
from fused_rnn import extensions
from fused_rnn.testing import assert_within_budget, errors

SETS = ("amx_int8", "avx512_vnni", "avx2", "neon", "portable")
TWIN = "amx_int8_twin"  # the tiles of AMX in plain C++


@pytest.fixture
def any_set() -> Iterator[None]:
    """Gives the choice of instruction sets back."""
    need("native")
    yield
    extensions.set_stored_instruction_set("auto")


def judge(quantized: Any, layer: nn.Module, arguments: Call) -> None:
    """16 bits: the one rule. int8: 1.2 times the error of the same scheme in plain PyTorch."""
    found, plain = arguments.of(quantized), by_hand(quantized, arguments)
    whole = layer if quantized.storage == "int8" else quantized.dequantize()
    truths = in_float64(whole, arguments)
    for at, (actual, reference, truth) in enumerate(zip(found, plain, truths, strict=True)):
        if quantized.storage != "int8":
            assert_within_budget(actual, truth, reference, name=f"output {at}")
            continue
        error, most = errors(actual, truth), errors(reference, truth)
        rounding = 4 * torch.finfo(torch.float32).eps * truth.abs().max().item()
        assert error.maximum <= 1.2 * most.maximum + rounding, f"output {at}: {error} of {most}"
        assert error.rms <= 1.2 * most.rms + rounding, f"output {at}: {error} of {most}"


@pytest.mark.parametrize("ragged", [False, True], ids=["whole", "ragged"])
@pytest.mark.parametrize("states", [False, True], ids=["zeros", "states"])
@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("name", LAYERS)
def test_errors(name: str, storage: str, states: bool, ragged: bool) -> None:
    layer = build(name)
    quantized = fused_rnn.quantize(copy.deepcopy(layer), storage)
    judge(quantized, layer, call(layer, states=states, ragged=ragged))


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("hidden", [1, 16, 200, 320])
@pytest.mark.parametrize("name", ["gru", "textbook", "lstm", "rnn"])
def test_errors_over_many_steps(name: str, hidden: int, storage: str) -> None:
    layer = build(name, inputs=hidden, hidden=hidden)
    quantized = fused_rnn.quantize(copy.deepcopy(layer), storage)
    judge(quantized, layer, call(layer, steps=150, batch=2, states=True, ragged=False))


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("name", LAYERS)
def test_the_same_bits_of_every_instruction_set(name: str, storage: str, any_set: None) -> None:
    quantized = fused_rnn.quantize(build(name), storage)
    arguments = call(quantized, states=True, ragged=True)
    truth = arguments.of(quantized)
    known = extensions.stored_instruction_sets()
    assert set(known) <= set(SETS) and known[-1] == "portable"
    for own in (*known, TWIN):
        extensions.set_stored_instruction_set(own)
        for found, expected in zip(arguments.of(quantized), truth, strict=True):
            assert torch.equal(found, expected), own


@pytest.mark.parametrize("kind", ["GRU", "LSTM", "RNN"])
@pytest.mark.parametrize("inputs", [3, 64, 77, 200])
def test_tiles_of_integers(kind: str, inputs: int, any_set: None) -> None:
    """Every number of rows in a tile, and inputs that do and do not fill tiles."""
    torch.manual_seed(inputs)
    layer = fused_rnn.quantize(getattr(fused_rnn, f"Fused{kind}")(inputs, 150).eval(), "int8")
    x = torch.randn(3, 37, inputs)
    x[1, 20] = 0
    extensions.set_stored_instruction_set("portable")
    truth = layer(x)[0]
    for name in (TWIN, *extensions.stored_instruction_sets()):
        extensions.set_stored_instruction_set(name)
        for batch in (1, 2, 3, 4, 15, 16, 17, 33, 37):
            assert torch.equal(layer(x[:, :batch])[0], truth[:, :batch]), (name, batch)
    x[0, 5] = float("nan")
    for name in (TWIN, "auto"):
        extensions.set_stored_instruction_set(name)
        y = layer(x)[0]
        assert y[:, 5].isnan().all()
        assert torch.equal(
            torch.cat((y[:, :5], y[:, 6:]), 1), torch.cat((truth[:, :5], truth[:, 6:]), 1)
        )


def test_tiles_serve_integers_only(any_set: None) -> None:
    extensions.set_stored_instruction_set(TWIN)
    assert extensions.stored_instruction_set("int8") == TWIN
    for storage in ("bfloat16", "float16"):
        assert extensions.stored_instruction_set(storage) in SETS[1:]


def test_an_unknown_instruction_set_is_refused(any_set: None) -> None:
    with pytest.raises(ValueError, match="instruction set: expected one of auto .*, got mmx"):
        extensions.set_stored_instruction_set("mmx")


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("name", LAYERS)
def test_a_row_has_the_same_bits_in_every_batch(name: str, storage: str) -> None:
    quantized = fused_rnn.quantize(build(name), storage)
    whole = call(quantized, batch=30, states=True, ragged=True)
    together = whole.of(quantized)
    for b in (0, 7, 29):
        rows = [None if t is None else t[:, b : b + 1] for t in (whole.x, *whole.states)]
        assert whole.lengths is not None and whole.resets is not None
        alone = Call(
            rows[0], tuple(rows[1:]), whole.lengths[b : b + 1], whole.resets[:, b : b + 1]
        ).of(quantized)
        for found, expected in zip(alone, together, strict=True):
            assert torch.equal(found, expected[:, b : b + 1])


def test_the_same_bits_on_every_number_of_threads(own_threads: None) -> None:
    quantized = fused_rnn.quantize(build("lstm", inputs=200, hidden=300))
    arguments = call(quantized, steps=9, states=True, ragged=True)
    found = []
    for count in (1, 2, 3, 5):
        torch.set_num_threads(count)
        found.append(arguments.of(quantized))
    for other in found[1:]:
        assert all(map(torch.equal, other, found[0]))


@pytest.mark.parametrize("name", ["gru", "textbook", "lstm-projected"])
def test_every_form_of_input(name: str) -> None:
    quantized = fused_rnn.quantize(build(name))
    arguments = call(quantized, states=False, ragged=False)
    x, lengths = arguments.x, torch.tensor([3, 13, 1, 13, 6])
    y, *last = Call(x, (), lengths).of(quantized)
    packed = pack_padded_sequence(x, lengths, enforce_sorted=False)
    with torch.no_grad():
        data, states = quantized(packed)
        again, _ = pad_packed_sequence(data, total_length=13)
        first = copy.deepcopy(quantized)
        first.batch_first = True
        swapped, _ = first(x.transpose(0, 1), lengths=lengths)
        single, _ = quantized(x[:3, 0])
    assert torch.equal(again, y) and torch.equal(swapped.transpose(0, 1), y)
    assert torch.equal(single, y[:3, 0])
    states = states if isinstance(states, tuple) else (states,)
    assert all(map(torch.equal, states, last))


CELLS: dict[str, Any] = {
    "rnn": lambda: fused_rnn.FusedRNNCell(9, 20, nonlinearity="relu"),
    "gru": lambda: fused_rnn.FusedGRUCell(9, 20),
    "textbook": lambda: fused_rnn.FusedGRUCell(9, 20, bias=False, reset_after=False),
    "lstm": lambda: fused_rnn.FusedLSTMCell(9, 20),
}


def as_layer(cell: Any) -> Any:
    """A layer of the weights of a cell."""
    options: dict[str, Any] = {"bias": cell.bias}
    options |= {k: vars(cell)[k] for k in ("nonlinearity", "reset_after") if k in vars(cell)}
    kind = type(cell).__name__.removesuffix("Cell")
    layer = getattr(fused_rnn, kind)(cell.input_size, cell.hidden_size, **options).eval()
    layer.load_state_dict({f"{name}_l0": value for name, value in cell.state_dict().items()})
    return layer


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("name", CELLS)
def test_a_cell_is_a_layer_of_one_step(name: str, storage: str) -> None:
    cell = CELLS[name]().eval()
    layer = fused_rnn.quantize(as_layer(cell), storage)
    cell = fused_rnn.quantize(cell, storage)
    arguments = call(layer, steps=1, states=True, ragged=False)
    _, *truth = arguments.of(layer)
    states = tuple(state[0] for state in arguments.states)
    with torch.no_grad():
        found = cell(arguments.x[0], states if len(states) == 2 else states[0])
        row = cell(arguments.x[0, 0])
    found = found if isinstance(found, tuple) else (found,)
    assert all(torch.equal(a, b[0]) for a, b in zip(found, truth, strict=True))
    _, *first = Call(arguments.x[:, :1], ()).of(layer)
    row = row if isinstance(row, tuple) else (row,)
    assert all(torch.equal(a, b[0, 0]) for a, b in zip(row, first, strict=True))


def test_a_row_that_is_not_finite_gives_nan_and_leaves_others_alone() -> None:
    quantized = fused_rnn.quantize(build("lstm-nobias"))
    arguments = call(quantized, states=False, ragged=False)
    truth = arguments.of(quantized)[0]
    for value in (float("nan"), float("inf")):
        x = arguments.x.clone()
        x[4, 2, 7] = value
        y = Call(x, ()).of(quantized)[0]
        assert y[4:, 2].isnan().all()
        assert torch.equal(y[:4, 2], truth[:4, 2])
        rest = [0, 1, 3, 4]
        assert torch.equal(y[:, rest], truth[:, rest])


def test_zeros_and_numbers_too_small_for_a_scale() -> None:
    layer = build("gru-nobias")
    with torch.no_grad():
        layer.weight_ih_l0[3] = 0
        layer.weight_hh_l0[100] = 1e-39
    quantized = fused_rnn.quantize(copy.deepcopy(layer))
    assert not quantized.dequantize().weight_ih_l0[3].any()
    judge(quantized, layer, call(layer, states=True, ragged=False))
    x = torch.zeros(3, 2, layer.input_size)
    assert not Call(x, ()).of(quantized)[0].any()
    assert torch.equal(Call(x + 1e-35, ()).of(quantized)[0], Call(x, ()).of(quantized)[0])


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("name", LAYERS)
def test_without_kernels(name: str, storage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = build(name)
    quantized = fused_rnn.quantize(copy.deepcopy(layer), storage)
    arguments = call(layer, states=True, ragged=True)
    monkeypatch.setattr(extensions, "_REASON", "there is none")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        judge(quantized, layer, arguments)
    assert all("'reference' runs instead" in str(w.message) for w in caught)


def test_under_autocast_all_stays_in_float32() -> None:
    quantized = fused_rnn.quantize(build("lstm"))
    arguments = call(quantized, states=False, ragged=False)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = arguments.of(quantized)
    assert all(map(torch.equal, found, arguments.of(quantized)))


def test_other_types_of_input_are_refused() -> None:
    quantized: Any = fused_rnn.quantize(build("lstm"))
    cell = fused_rnn.quantize(CELLS["gru"]().eval())
    with pytest.raises(ValueError, match="does not match weight dtype .torch.float32."):
        quantized(torch.randn(3, 2, quantized.input_size).double())
    with pytest.raises(RuntimeError, match="same dtype, but got torch.float64 and torch.float32"):
        cell(torch.randn(2, 9).double())


def test_training_is_refused() -> None:
    cell: nn.Module = CELLS["gru"]().eval()
    for module in (fused_rnn.quantize(build("lstm")), fused_rnn.quantize(cell)):
        x = torch.randn(3, 2, module.input_size)[0 if "Cell" in type(module).__name__ else slice(3)]
        with pytest.raises(RuntimeError, match="inference only, got an input that requires grad"):
            module(x.requires_grad_())
        module.train()
        with torch.no_grad(), pytest.raises(RuntimeError, match="got training mode; call eval"):
            module(x)


def outputs(module: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        found: Tensor = module(x)[0]
    return found


def test_errors_of_shapes_are_those_of_torch_nn() -> None:
    plain = nn.LSTM(3, 4).eval()
    quantized = fused_rnn.quantize(nn.Sequential(copy.deepcopy(plain)))[0]
    h = torch.zeros(1, 2, 4)
    calls: list[tuple[Any, ...]] = [
        (torch.zeros(5, 2, 7),),
        (torch.zeros(5, 2, 3), (h, torch.zeros(1, 3, 4))),
        (torch.zeros(5, 2, 3), (h[:, 0], h[:, 0])),
        (torch.zeros(5, 2, 3, 1),),
        (torch.zeros(5, 2, 3), (h, h.double())),
    ]
    for arguments in calls:
        with torch.no_grad():
            with pytest.raises((RuntimeError, ValueError)) as ours:
                quantized(*arguments)
            with pytest.raises((RuntimeError, ValueError)) as theirs:
                plain(*arguments)
        assert ours.type is theirs.type
