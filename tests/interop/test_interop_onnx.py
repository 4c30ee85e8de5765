# SPDX-License-Identifier: MIT
"""Fused layers of ONNX nodes, beside ONNX Runtime over random models."""

import copy
from pathlib import Path
from typing import Any

import interop_rule
import pytest
import torch
from torch import Tensor

from fused_rnn import FusedGRU, FusedLSTM, FusedRNN
from fused_rnn.interop import from_onnx

pytestmark = pytest.mark.interop
onnx = pytest.importorskip("onnx", reason="needs the extra `interop`")
runtime = pytest.importorskip("onnxruntime", reason="needs the extra `interop`")

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
CLASSES = {"LSTM": FusedLSTM, "GRU": FusedGRU, "RNN": FusedRNN}
STEPS, INPUTS, HIDDEN = 6, 3, 5
LENGTHS = (6, 2, 1, 4)


def node(
    kind: str,
    directions: int,
    bias: bool,
    name: str = "",
    peepholes: bool = False,
    **attributes: Any,
) -> Any:
    """A node of that kind, and its constants."""
    gates, prefix = GATES[kind] * HIDDEN, name or "w"
    shapes = {"W": (gates, INPUTS), "R": (gates, HIDDEN), "B": (2 * gates,), "P": (3 * HIDDEN,)}
    constants = [
        onnx.numpy_helper.from_array((torch.randn(directions, *shape) / 2).numpy(), prefix + key)
        for key, shape in shapes.items()
        if {"B": bias, "P": peepholes}.get(key, True)
    ]
    states = ["h0", "c0"] if kind == "LSTM" else ["h0"]
    inputs = ["X", prefix + "W", prefix + "R", prefix + "B" if bias else "", "lengths", *states]
    inputs += [prefix + "P"] * peepholes
    outputs = [f"{name}{out}" for out in ("Y", "Y_h", "Y_c")[: 3 if kind == "LSTM" else 2]]
    made = onnx.helper.make_node(kind, inputs, outputs, name, hidden_size=HIDDEN, **attributes)
    return made, constants


def model(*nodes: Any) -> Any:
    """A graph of nodes and their constants, checked."""
    real, whole = onnx.TensorProto.FLOAT, onnx.TensorProto.INT32
    info = onnx.helper.make_tensor_value_info
    kinds = {made.op_type for made, _ in nodes}
    inputs = [info("X", real, ["T", "B", INPUTS]), info("lengths", whole, ["B"])]
    inputs += [info("h0", real, ["D", "B", HIDDEN])]
    inputs += [info("c0", real, ["D", "B", HIDDEN])] * ("LSTM" in kinds)
    outputs = [
        info(out, real, [None] * (4 if out.endswith("Y") else 3))
        for made, _ in nodes
        for out in made.output
    ]
    constants = [constant for _, own in nodes for constant in own]
    graph = onnx.helper.make_graph([made for made, _ in nodes], "g", inputs, outputs, constants)
    made = onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", 14)], ir_version=8
    )
    onnx.checker.check_model(made)
    return made


def given(kind: str, directions: int) -> dict[str, Tensor]:
    batch = len(LENGTHS)
    states = {name: torch.randn(directions, batch, HIDDEN) for name in ("h0", "c0")}
    if kind != "LSTM":
        del states["c0"]
    x = torch.randn(STEPS, batch, INPUTS)
    return {"X": x, "lengths": torch.tensor(LENGTHS, dtype=torch.int32), **states}


def run(made: Any, inputs: dict[str, Tensor]) -> list[Tensor]:
    session = runtime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    found = session.run(None, {name: value.numpy() for name, value in inputs.items()})
    return [torch.from_numpy(one) for one in found]


def check(layer: Any, made: Any, kind: str, directions: int) -> None:
    inputs = given(kind, directions)
    expected = run(made, inputs)
    hx = (inputs["h0"], inputs["c0"]) if kind == "LSTM" else inputs["h0"]
    with torch.no_grad():
        y, last = layer(inputs["X"], hx, lengths=inputs["lengths"])
    y = y.unflatten(-1, (directions, HIDDEN)).transpose(1, 2)
    found = [y, *(last if isinstance(last, tuple) else (last,))]
    for own, other in zip(found, expected, strict=True):
        interop_rule.check(own, other)


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("kind", "attributes"),
    [
        ("LSTM", {}),
        ("LSTM", {"input_forget": 1}),
        ("GRU", {"linear_before_reset": 0}),
        ("GRU", {"linear_before_reset": 1}),
        ("RNN", {}),
        ("RNN", {"activations": ["Relu"]}),
        ("LSTM", {"activations": ["Sigmoid", "Tanh", "Tanh"]}),
        ("LSTM", {"peepholes": True}),
        ("LSTM", {"peepholes": True, "input_forget": 1}),
        ("LSTM", {"activations": ["Sigmoid", "Relu", "Relu"], "peepholes": True}),
        ("LSTM", {"activations": ["HardSigmoid", "Tanh", "Tanh"], "peepholes": True}),
        ("GRU", {"activations": ["HardSigmoid", "Relu"], "linear_before_reset": 1}),
        (
            "GRU",
            {
                "activations": ["HardSigmoid", "Tanh"],
                "activation_alpha": [0.3],
                "activation_beta": [0.5],
                "linear_before_reset": 1,
            },
        ),
        ("LSTM", {"clip": 0.4}),
        ("LSTM", {"clip": 0.4, "peepholes": True}),
        ("LSTM", {"clip": 0.4, "peepholes": True, "input_forget": 1}),
        ("LSTM", {"clip": 0.7, "activations": ["Sigmoid", "Relu", "Relu"]}),
        ("LSTM", {"clip": 3.0, "activations": ["HardSigmoid", "Relu", "Relu"]}),
        ("GRU", {"clip": 0.4, "linear_before_reset": 1}),
        (
            "GRU",
            {
                "clip": 0.4,
                "activations": ["HardSigmoid", "Tanh"],
                "activation_alpha": [1 / 6],
                "linear_before_reset": 1,
            },
        ),
        ("RNN", {"clip": 0.4}),
        ("RNN", {"clip": 0.4, "activations": ["Relu"]}),
    ],
    ids=str,
)
def test_equals_onnxruntime(
    kind: str, attributes: dict[str, Any], bias: bool, direction: str
) -> None:
    torch.manual_seed(0)
    directions = 2 if direction == "bidirectional" else 1
    own = dict(attributes)
    for name in ("activations", "activation_alpha", "activation_beta"):
        if name in own:
            own[name] = own[name] * directions
    made = model(node(kind, directions, bias, direction=direction, **own))
    layer = from_onnx(made)
    assert type(layer) is CLASSES[kind] and layer.bias == bias and not layer.training
    check(layer, made, kind, directions)


def test_a_file_with_data_beside_it(tmp_path: Path) -> None:
    torch.manual_seed(1)
    made = model(node("LSTM", 2, True, direction="bidirectional"))
    path = tmp_path / "model.onnx"
    # It would move the data out of what it is given.
    onnx.save(
        copy.deepcopy(made),
        path,
        save_as_external_data=True,
        size_threshold=0,
        location="model.data",
    )
    check(from_onnx(path), made, "LSTM", 2)
    check(from_onnx(str(path)), made, "LSTM", 2)


def test_several_nodes_come_by_name() -> None:
    torch.manual_seed(2)
    first, second = node("LSTM", 1, True, "a"), node("LSTM", 1, True, "b")
    layers = from_onnx(model(first, second))
    assert list(layers) == ["a", "b"]
    for name, own in (("a", first), ("b", second)):
        check(layers[name], model(own), "LSTM", 1)


def test_a_node_without_a_name_goes_by_its_output() -> None:
    torch.manual_seed(3)
    (first, constants), second = node("GRU", 1, True, "a"), node("GRU", 1, True, "b")
    first.name = ""
    assert list(from_onnx(model((first, constants), second))) == ["aY", "b"]


def test_weights_of_constant_nodes_and_of_a_graph_inside_another() -> None:
    torch.manual_seed(4)
    made, constants = node("RNN", 1, True)
    expected = from_onnx(model((made, constants)))
    nodes = [
        onnx.helper.make_node("Constant", [], [constant.name + "_"], value=constant)
        for constant in constants
    ]
    nodes += [onnx.helper.make_node("Identity", [c.name + "_"], [c.name]) for c in constants]
    outer = model((made, constants)).graph
    del outer.initializer[:]
    inner = onnx.helper.make_graph(
        [made], "inner", [], [onnx.helper.make_tensor_value_info("Y", 1, None)]
    )
    branch = onnx.helper.make_node("If", ["which"], ["out"], then_branch=inner, else_branch=inner)
    del outer.node[:]
    outer.node.extend([*nodes, branch])
    with pytest.raises(ValueError, match="a name of its own for each, got 'Y' twice"):
        from_onnx(onnx.helper.make_model(outer))
    outer.node.remove(branch)
    outer.node.append(made)
    found = from_onnx(onnx.helper.make_model(outer))
    for own, other in zip(found.parameters(), expected.parameters(), strict=True):
        assert torch.equal(own, other)


def test_layout_is_batch_first() -> None:
    """The numbers are those of layout 0; ONNX Runtime refuses layout 1."""
    torch.manual_seed(5)
    made, constants = node("GRU", 1, True, linear_before_reset=1)
    plain = from_onnx(model((made, constants)))
    made.attribute.append(onnx.helper.make_attribute("layout", 1))
    layer = from_onnx(model((made, constants)))
    x = torch.randn(STEPS, 2, INPUTS)
    assert torch.equal(layer(x.transpose(0, 1))[0].transpose(0, 1), plain(x)[0])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_types_of_weights(dtype: torch.dtype) -> None:
    made, constants = node("LSTM", 1, True)
    kept = {}
    for at, constant in enumerate(constants):
        values = torch.from_numpy(onnx.numpy_helper.to_array(constant).copy()).to(dtype)
        kind = {torch.float64: 11, torch.float16: 10, torch.bfloat16: 16}[dtype]
        data = values.view(torch.int16 if dtype.itemsize == 2 else dtype).numpy().tobytes()
        constants[at] = onnx.helper.make_tensor(
            constant.name, kind, list(values.shape), data, raw=True
        )
        kept[constant.name] = values
    graph = onnx.helper.make_graph([made], "g", [], [], constants)
    layer = from_onnx(onnx.helper.make_model(graph))
    assert layer.weight_ih_l0.dtype == dtype
    i, o, f, c = kept["wW"][0].chunk(4)
    assert torch.equal(layer.weight_ih_l0, torch.cat([i, f, c, o]))


@pytest.mark.parametrize(
    ("kind", "attributes", "message"),
    [
        ("LSTM", {"clip": -3.0}, "clip: expected a positive number or None, got -3.0"),
        ("GRU", {"clip": 3.0}, "reset_after: expected True beside clip=3.0, got False"),
        (
            "LSTM",
            {"clip": 2.5, "activations": ["HardSigmoid", "Tanh", "Tanh"]},
            "clip: expected a bound where the hard sigmoid is flat, which fused layers compute",
        ),
        ("LSTM", {"activations": ["Sigmoid", "Tanh", "Relu"]}, "activations: expected"),
        ("LSTM", {"activations": ["Relu", "Tanh", "Tanh"]}, "activations: expected"),
        ("GRU", {"activations": ["Sigmoid", "Relu"]}, "reset_after: expected True beside activ"),
        (
            "GRU",
            {"activations": ["HardSigmoid", "Tanh"], "activation_beta": [0.4]},
            r"activation_beta: expected \[0.5\], which fused layers compute, got \[0.4",
        ),
        ("RNN", {"activations": ["Elu"]}, r"activations: expected \['tanh'\]"),
    ],
)
def test_what_no_layer_expresses(kind: str, attributes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"{kind} 'n': {message}"):
        from_onnx(model(node(kind, 1, True, "n", **attributes)))


def test_peepholes_of_zeros_are_none() -> None:
    made, constants = node("LSTM", 1, True, "n", peepholes=True)
    zeros = onnx.numpy_helper.from_array(torch.zeros(1, 3 * HIDDEN).numpy(), "nP")
    graph = onnx.helper.make_graph([made], "g", [], [], [*constants[:-1], zeros])
    assert not from_onnx(onnx.helper.make_model(graph)).peephole


def test_constants_that_no_layer_holds() -> None:
    name, given = "initial_h", torch.ones(1, 1, HIDDEN)
    made, constants = node("LSTM", 1, True, "n")
    made.input[5] = "initial_h"
    graph = onnx.helper.make_graph([made], "g", [], [], constants)
    graph.initializer.append(onnx.numpy_helper.from_array(given.numpy(), name))
    with pytest.raises(ValueError, match=f"LSTM 'n': {name}: expected .*, got other constants"):
        from_onnx(onnx.helper.make_model(graph))
    graph.initializer[-1].CopyFrom(onnx.numpy_helper.from_array((given * 0).numpy(), name))
    assert isinstance(from_onnx(onnx.helper.make_model(graph)), FusedLSTM)


def test_bad_models(tmp_path: Path) -> None:
    empty = onnx.helper.make_graph([], "g", [], [])
    with pytest.raises(ValueError, match="expected a graph with LSTM, GRU or RNN nodes, got none"):
        from_onnx(onnx.helper.make_model(empty))
    made, constants = node("GRU", 1, False, "n")
    graph = onnx.helper.make_graph([made], "g", [], [], constants[:1])
    with pytest.raises(ValueError, match="GRU 'n': R: expected a constant of the graph, got nR"):
        from_onnx(onnx.helper.make_model(graph))
    with pytest.raises(TypeError, match="model_or_path: expected an onnx.ModelProto or a path"):
        from_onnx(3)
    with pytest.raises(FileNotFoundError):
        from_onnx(tmp_path / "none.onnx")
