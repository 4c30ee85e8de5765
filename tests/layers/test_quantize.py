# SPDX-License-Identifier: MIT
"""What `quantize` makes of models: their state, copies, files, graphs, and what it leaves alone."""

import copy
import io
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import need
from quantized_models import LAYERS, STORAGES, Call, build, call, in_float64
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.export import Dim
from torch.nn.utils import parametrizations

import fused_rnn
from fused_rnn.nn.quantization.stored import StoredWeight
from fused_rnn.testing import assert_within_budget


class Tagger(nn.Module):
    """A model with a layer of torch.nn, a fused one at two places, and a cell."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.LSTM(8, 24, num_layers=2, batch_first=True)
        self.upper = fused_rnn.FusedGRU(24, 20, batch_first=True, reset_after=False)
        self.again = self.upper
        self.cell = nn.GRUCell(20, 20)
        self.out = nn.Linear(20, 5)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, 8) -> (B, 5)."""
        y, _ = self.again(self.encoder(x)[0])
        scores: Tensor = self.out(self.cell(y[:, -1]))
        return scores


def tagger(storage: str = "int8") -> Any:
    return fused_rnn.quantize(Tagger().eval(), storage)


X = torch.linspace(-1, 1, 3 * 6 * 8).reshape(3, 6, 8)


def scores(model: nn.Module) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(X)
    return found


def test_all_layers_and_cells_are_replaced_in_place() -> None:
    model: Any = Tagger().eval()
    linear, before = model.out, scores(model)
    assert fused_rnn.quantize(model) is model
    kinds = [type(m).__name__ for m in (model.encoder, model.upper, model.again, model.cell)]
    assert kinds == ["QuantizedLSTM", "QuantizedGRU", "QuantizedGRU", "QuantizedGRUCell"]
    assert model.upper is model.again and model.out is linear
    assert model.upper.reset_after is False and model.encoder.num_layers == 2
    assert (scores(model) - before).abs().max() < 0.05 * before.abs().max()
    fused_rnn.quantize(model)  # nothing is left to do, and that is no surprise


def test_a_layer_itself_gives_its_twin_and_stays_as_it_is() -> None:
    layer = nn.LSTM(3, 4).eval()
    weight = layer.weight_hh_l0.clone()
    quantized: Any = fused_rnn.quantize(layer)
    assert type(layer) is nn.LSTM and torch.equal(layer.weight_hh_l0, weight)
    with torch.no_grad():
        layer.bias_hh_l0.add_(1)
    assert not torch.equal(quantized.bias_hh_l0, layer.bias_hh_l0)


def test_it_passes_for_the_layer_of_torch_nn() -> None:
    model = tagger()
    assert isinstance(model.encoder, nn.LSTM) and isinstance(model.cell, nn.GRUCell)
    assert not isinstance(model.encoder, nn.GRU) and type(model.encoder) is not nn.LSTM


def test_what_it_is_can_be_read() -> None:
    layer = fused_rnn.quantize(fused_rnn.FusedLSTM(3, 5, bidirectional=True).eval())
    assert "3, 5, bidirectional=True, weights='int8'" in repr(layer)
    assert "(weight_hh_l0_reverse): StoredWeight(20x5, int8)" in repr(layer)
    need("native")
    said = fused_rnn.explain(layer, torch.zeros(2, 1, 3))
    assert said.startswith("native runs this with int8 weights on ")


@pytest.mark.parametrize("storage", STORAGES)
def test_the_state_is_that_of_plain_matrices(storage: str) -> None:
    layer = build("lstm-projected")
    state = fused_rnn.quantize(copy.deepcopy(layer), storage).state_dict()
    weight = state["weight_hr_l0_reverse.weight"]
    assert weight.shape == layer.weight_hr_l0_reverse.shape
    assert weight.dtype == getattr(torch, storage)
    assert torch.equal(state["bias_hh_l1"], layer.bias_hh_l1)
    if storage == "int8":
        scale = state["weight_hr_l0_reverse.scale"]
        assert scale.shape == weight.shape[:1] and scale.dtype == torch.float32
        assert (weight.abs().amax(1) == 127).all()
        error = (weight * scale.unsqueeze(1) - layer.weight_hr_l0_reverse).abs()
        assert (error <= 0.51 * scale.unsqueeze(1)).all()


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("name", LAYERS)
def test_a_state_loads_strictly(name: str, storage: str, tmp_path: Path) -> None:
    ours, other = (fused_rnn.quantize(build(name), storage) for _ in range(2))
    save_file(ours.state_dict(), tmp_path / "layer.safetensors")
    other.load_state_dict(load_file(tmp_path / "layer.safetensors"), strict=True)
    arguments = call(ours, states=True, ragged=True)
    assert all(map(torch.equal, arguments.of(ours), arguments.of(other)))


def test_a_state_that_does_not_fit_is_refused() -> None:
    model = tagger()
    state = model.state_dict()
    truth = scores(model)
    changed: dict[str, Any] = {
        "encoder.weight_ih_l0.weight: expected shape": torch.zeros(3, 3, dtype=torch.int8),
        "encoder.weight_ih_l0.weight: expected .*int8, got .*float32": torch.zeros(96, 8),
        'Missing key.*"encoder.weight_ih_l0.weight"': None,
    }
    for message, value in changed.items():
        given = {k: v for k, v in state.items() if k != "encoder.weight_ih_l0.weight"}
        given |= {} if value is None else {"encoder.weight_ih_l0.weight": value}
        with pytest.raises(RuntimeError, match=message):
            model.load_state_dict(given)
    with pytest.raises(RuntimeError, match='Unexpected key.*"encoder.weight_ih_l0.zero"'):
        model.load_state_dict(state | {"encoder.weight_ih_l0.zero": torch.zeros(1)})
    assert torch.equal(scores(model), truth)
    with pytest.raises(RuntimeError, match="Missing key"):
        model.load_state_dict(Tagger().state_dict())


def test_pickles_whose_pairs_did_not_lie_together() -> None:
    """As bfloat16 weights were laid out at first, (panels, K, gates, units)."""
    model = tagger("bfloat16")
    truth = scores(model)
    for module in model.modules():
        if isinstance(module, StoredWeight):
            for name, panels in module.named_buffers():
                apart = panels.permute(0, 1, 4, 2, 3).flatten(1, 2)[:, : module.columns]
                setattr(module, name, apart.contiguous())
    assert torch.equal(scores(pickle.loads(pickle.dumps(model))), truth)


@pytest.mark.parametrize("storage", STORAGES)
def test_copies_and_files_hold_all(storage: str) -> None:
    model = tagger(storage)
    truth = scores(model)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), loaded):
        assert torch.equal(scores(other), truth)
        assert isinstance(other.encoder, nn.LSTM)


@pytest.mark.parametrize("storage", STORAGES)
def test_no_conversion_changes_how_weights_are_stored(storage: str) -> None:
    layer = fused_rnn.quantize(build("lstm"), storage)
    arguments = call(layer, states=True, ragged=False)
    truth = arguments.of(layer)
    for converted in (layer.double(), layer.half(), layer.bfloat16(), layer.to("cpu")):
        assert all(map(torch.equal, arguments.of(converted), truth))
    assert layer.to("meta").weight_ih_l0.tensors()[0].is_meta


@pytest.mark.parametrize("name", LAYERS)
def test_the_way_back(name: str) -> None:
    layer: Any = build(name)
    quantized: Any = fused_rnn.quantize(copy.deepcopy(layer))
    back = quantized.dequantize()
    assert type(back) is type(layer) and not back.training and repr(back) == repr(layer)
    again = fused_rnn.quantize(copy.deepcopy(back))
    for key, value in quantized.state_dict().items():
        near = again.state_dict()[key]
        # A scale that is multiplied by 127 and divided again is off by a rounding.
        assert torch.equal(value, near) or _a_rounding_apart(value, near)
    cell: Any = fused_rnn.quantize(nn.RNNCell(3, 4, bias=False, nonlinearity="relu").eval())
    assert repr(cell.dequantize()) == "FusedRNNCell(3, 4, bias=False, nonlinearity=relu)"


def _a_rounding_apart(one: Tensor, other: Tensor) -> bool:
    return bool(((one - other).abs() <= 2.0**-22 * other.abs()).all())


def test_more_columns_than_sums_have_room_for() -> None:
    most = 133_144
    assert 127 * 127 * most < 2**31 <= 127 * 127 * (most + 1)
    cell = nn.RNNCell(most + 1, 2).eval()
    with pytest.raises(ValueError, match="weight_ih: expected at most 133,144 columns in int8"):
        fused_rnn.quantize(cell)
    assert type(fused_rnn.quantize(cell, "float16")).__name__ == "QuantizedRNNCell"
    # All of one sign: as large as a sum can be.
    cell = nn.RNNCell(most, 2, bias=False, nonlinearity="relu").eval()
    with torch.no_grad():
        cell.weight_ih.fill_(1.0)
        h = fused_rnn.quantize(cell)(torch.ones(1, most))
    assert_within_budget(
        h, torch.full((1, 2), float(most)).double(), torch.full((1, 2), float(most))
    )


def test_memory() -> None:
    layer = build("lstm", inputs=256, hidden=256)
    bytes_of = [
        sum(t.numel() * t.element_size() for t in (*m.parameters(), *m.buffers()))
        for m in (layer, fused_rnn.quantize(copy.deepcopy(layer)))
    ]
    assert bytes_of[1] <= 0.27 * bytes_of[0]


def test_what_is_no_storage_or_no_number_is_refused_and_changes_nothing() -> None:
    model = Tagger()
    with pytest.raises(ValueError, match="weights: expected one of 'int8', .*, got 'int4'"):
        fused_rnn.quantize(model, "int4")
    with torch.no_grad():
        model.cell.weight_hh[1, 2] = 1e38
    with pytest.raises(ValueError, match="weight_hh: expected weights that are finite in float16"):
        fused_rnn.quantize(model, "float16")
    with torch.no_grad():
        model.cell.weight_hh[1, 2] = float("nan")
    for storage in STORAGES:
        with pytest.raises(ValueError, match="weight_hh: expected weights that are finite"):
            fused_rnn.quantize(model, storage)
    assert type(model.encoder) is nn.LSTM and type(model.cell) is nn.GRUCell


class Own(nn.LSTM):
    """A subclass with a forward of its own."""

    def forward(self, *arguments: Any) -> Any:
        """What torch.nn's makes of it."""
        return super().forward(*arguments)


def test_what_stays_as_it_is_is_named() -> None:
    model = nn.ModuleDict({"own": Own(3, 4), "tied": nn.GRU(3, 4), "plain": nn.GRU(3, 4)}).eval()
    parametrizations.orthogonal(model["tied"], "weight_hh_l0")
    with pytest.warns(UserWarning, match="quantize leaves as they are") as caught:
        fused_rnn.quantize(model)
    text = str(caught[0].message)
    assert "own: " in text and "tied: ParametrizedGRU, parametrized" in text
    assert "plain" not in text and type(model["plain"]).__name__ == "QuantizedGRU"
    with pytest.warns(
        UserWarning, match="expected a model with recurrent modules, got none in Lin"
    ):
        fused_rnn.quantize(nn.Linear(2, 2))


def test_weights_changed_in_place_are_those_that_compute() -> None:
    layer = fused_rnn.quantize(build("lstm"))
    arguments = call(layer, states=False, ragged=False)
    with torch.no_grad():
        for matrix in layer.modules():
            if isinstance(matrix, StoredWeight):
                matrix.scales_0.zero_()
    plain = layer.dequantize()
    assert not plain.weight_hh_l0.any()
    truths = in_float64(plain, arguments)
    for found, truth, near in zip(arguments.of(layer), truths, arguments.of(plain), strict=True):
        assert_within_budget(found, truth, near)


@pytest.mark.parametrize("storage", STORAGES)
def test_one_graph_for_all(storage: str) -> None:
    need("native")
    model = tagger(storage)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    assert torch.equal(scores(compiled), scores(model))
    axes = ({0: Dim("batch", min=2), 1: Dim("steps", min=2)},)
    program = torch.export.export(model, (X,), dynamic_shapes=axes)
    ops = [n for n in program.graph.nodes if "stored_forward" in str(n.target)]
    assert len(ops) == 4  # two layers, one, and a cell
    x = torch.randn(2, 11, 8)
    with torch.no_grad():
        assert torch.equal(program.module()(x), model(x))


@pytest.mark.long
def test_a_package_for_programs_without_python(tmp_path: Path) -> None:
    need("native")
    model = tagger()
    with torch.no_grad():
        program = torch.export.export(model, (X,))
        path = str(tmp_path / "tagger.pt2")
        torch._inductor.aoti_compile_and_package(program, package_path=path)
        loaded: Any = torch._inductor.aoti_load_package(path)
        found = loaded(X)
    expected = scores(model)
    assert_within_budget(found, expected.double(), expected)


def test_hooks_and_names_of_others_stay() -> None:
    model = nn.Sequential(nn.LSTM(3, 4)).eval()
    seen: list[str] = []
    model[0].register_forward_hook(lambda *_: seen.append("hook"))
    model[0].note = "mine"
    fused_rnn.quantize(model)
    with torch.no_grad():
        model(torch.zeros(2, 1, 3))
    assert seen == ["hook"] and model[0].note == "mine"


def test_where_another_device_is_the_default() -> None:
    layer = fused_rnn.quantize(build("gru"))
    arguments = call(layer, states=False, ragged=True)
    truth = arguments.of(layer)
    lengths: Any = arguments.lengths
    torch.set_default_device("meta")
    try:
        found = Call(arguments.x, (), lengths.tolist(), arguments.resets).of(layer)
    finally:
        torch.set_default_device(None)
    assert all(map(torch.equal, found, truth))
