# SPDX-License-Identifier: MIT
"""What all layers with options promise: rows, derivatives, graphs, copies, states, packing."""

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from cases import need
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.utils import _per_sample_grad
from torch.nn.utils.rnn import pack_padded_sequence
from torch.utils.flop_counter import FlopCounterMode
from twins import tensors
from varied_layers import INPUT, PLAIN, RANDOM, VARIANTS, B, H, T, agree, make, with_gradients

import fused_rnn
from fused_rnn import explain, extensions
from fused_rnn.testing import assert_within_budget

LENGTHS = torch.tensor([7, 3, 0, 5])
BACKENDS = ("native", "reference")


@pytest.mark.parametrize("name", VARIANTS)
def test_ragged_batches_are_rows_of_their_own(name: str) -> None:
    layer = make(name).double().eval()
    x = torch.randn(T, B, INPUT, dtype=torch.float64)
    resets = torch.rand(T, B) < 0.3
    y, last = layer(x, lengths=LENGTHS, resets=resets)
    for row, length in enumerate(LENGTHS.tolist()):
        if length:
            own, final = layer(x[:length, row], resets=resets[:length, row])
            assert_within_budget(y[:length, row], own)
            for ours, one in zip(tensors(last), tensors(final), strict=True):
                assert_within_budget(ours[:, row], one)
    lengths = LENGTHS.clamp(min=1)
    packed = pack_padded_sequence(x, lengths, enforce_sorted=False)
    padded, _ = layer(x, lengths=lengths)
    expected = pack_padded_sequence(padded, lengths, enforce_sorted=False)
    assert_within_budget(layer(packed)[0].data, expected.data)


@pytest.mark.parametrize("name", VARIANTS)
def test_derivatives(name: str) -> None:
    layer = make(name).double()

    def outputs(x: Tensor, *weights: Tensor) -> Any:
        torch.manual_seed(5)  # the mask, where there is one
        own = dict(zip(dict(layer.named_parameters()), weights, strict=True))
        y, last = torch.func.functional_call(layer, own, (x,))
        return (y, *tensors(last))

    x = torch.randn(3, 2, INPUT, dtype=torch.float64, requires_grad=True)
    given = (x, *layer.parameters())
    assert torch.autograd.gradcheck(outputs, given, fast_mode=True)
    assert torch.autograd.gradgradcheck(outputs, given, fast_mode=True)


@pytest.mark.parametrize("name", VARIANTS)
def test_all_backends_compute_the_same_from_the_same_seed(name: str) -> None:
    need("native")
    x = torch.randn(T, B, INPUT)
    native = make(name, "native")
    reference = make(name, "reference")
    reference.load_state_dict(native.state_dict())
    double = copy.deepcopy(reference).double()

    def call(layer: Any, x: Tensor) -> list[Tensor]:
        torch.manual_seed(7)
        y, last = layer(x)
        return [y, *tensors(last)]

    if name != "dropped":  # a mask in float64 is another one
        agree(call(native, x), call(double, x.double()), call(reference, x))
    pairs = zip(call(native.double(), x.double()), call(double, x.double()), strict=True)
    for found, expected in pairs:
        assert_within_budget(found, expected)


@pytest.mark.parametrize("name", VARIANTS)
def test_in_a_graph(name: str) -> None:
    # All of them are graphs of one function, which would be compiled only so often.
    torch._dynamo.reset()
    layer = make(name).double().eval()
    x = torch.randn(T, B, INPUT, dtype=torch.float64)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    assert_within_budget(compiled(x)[0], layer(x)[0])
    exported = torch.export.export(layer, (x,)).module()
    assert_within_budget(exported(x)[0], layer(x)[0])


def test_a_graph_is_of_its_options() -> None:
    torch._dynamo.reset()
    x = torch.randn(T, B, INPUT, dtype=torch.float64)
    for options in ({}, {"zoneout": 0.3}, {"zoneout": 0.6}, {"activation": "relu"}, {"clip": 0.3}):
        layer = fused_rnn.FusedGRU(INPUT, H, **options).double().eval()
        compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
        assert_within_budget(compiled(x)[0], layer(x)[0])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", VARIANTS)
def test_a_graph_for_every_length(name: str, backend: str) -> None:
    need(backend)
    layer = make(name, backend).double().eval()
    x = torch.randn(T, B, INPUT, dtype=torch.float64)
    sizes = {0: torch.export.Dim("T", min=2, max=50), 1: torch.export.Dim("B", min=2, max=50)}
    program = torch.export.export(layer, (x,), dynamic_shapes={"input": sizes})
    ops = [n for n in program.graph.nodes if "fused_rnn" in str(n.target)]
    assert len(ops) == layer.num_layers
    other = torch.randn(11, 3, INPUT, dtype=torch.float64)
    assert_within_budget(program.module()(other)[0], layer(other)[0])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", [name for name in VARIANTS if name not in RANDOM])
def test_training_in_a_graph(name: str, backend: str) -> None:
    need(backend)
    torch._dynamo.reset()
    layer = make(name, backend).double()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager", dynamic=True)
    for steps in (T, 5):
        x = torch.randn(steps, B, INPUT, dtype=torch.float64, requires_grad=True)
        found = []
        for call in (compiled, layer):
            y, last = call(x)
            found.append(with_gradients([y, *tensors(last)], [x, *layer.parameters()]))
        for actual, expected in zip(*found, strict=True):
            assert_within_budget(actual, expected)


@pytest.mark.parametrize("name", [name for name in VARIANTS if name not in RANDOM])
def test_products_are_counted(name: str) -> None:
    need("native")
    x = torch.randn(T, B, INPUT)
    found = []
    for backend in BACKENDS:
        layer = make(name, backend)
        with FlopCounterMode(display=False) as counter:
            layer(x)[0].sum().backward()
        found.append(counter.get_total_flops())
    assert found[0] == found[1] > 0


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", VARIANTS)
def test_gradients_under_a_transform(name: str, backend: str) -> None:
    need(backend)
    layer = make(name, backend).double()
    x = torch.randn(T, B, INPUT, dtype=torch.float64, requires_grad=True)
    y = layer(x)[0]
    cotangents = torch.randn(3, *y.shape, dtype=torch.float64)

    def gradients(cotangent: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(y, (x, *layer.parameters()), cotangent, retain_graph=True)

    expected = [torch.stack(own) for own in zip(*map(gradients, cotangents), strict=True)]
    with forward_ad.dual_level():
        duals = gradients(forward_ad.make_dual(cotangents[0], cotangents[1]))
        parts = [forward_ad.unpack_dual(dual) for dual in duals]
    mapped = torch.func.vmap(gradients)(cotangents)
    for truth, own, (primal, tangent) in zip(expected, mapped, parts, strict=True):
        assert_within_budget(own, truth, truth)
        assert_within_budget(primal, truth[0], truth[0])
        assert_within_budget(tangent, truth[1], truth[1])


class Outputs(nn.Module):
    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)[0]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", VARIANTS)
def test_traced_or_refused(name: str) -> None:
    layer = make(name).eval()
    x = torch.randn(T, B, INPUT)
    with torch.no_grad():
        traced = torch.jit.trace(layer, (x,))
        assert torch.equal(traced(x)[0], layer(x)[0])
    need("native")
    # That exporter calls a model with all arguments of its forward by place.
    with pytest.raises(RuntimeError, match=r"torch.onnx.export has no operator for fused kernels"):
        torch.onnx.export(Outputs(layer), (x,), io.BytesIO(), dynamo=False)


@pytest.mark.parametrize("name", VARIANTS)
def test_copies_and_text(name: str) -> None:
    layer = make(name)
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert repr(twin) == repr(layer)
        twin.eval()
        assert torch.equal(
            twin(torch.ones(2, 1, INPUT))[0], layer.eval()(torch.ones(2, 1, INPUT))[0]
        )
    for option, value in VARIANTS[name][1].items():
        if option not in ("bidirectional", "bias", "proj_size", "num_layers"):
            assert f"{option}={value}" in repr(layer)


@pytest.mark.parametrize("name", VARIANTS)
def test_torch_has_no_such_layer(name: str) -> None:
    with pytest.raises(ValueError, match="as torch.nn computes, got"):
        make(name).to_torch()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", [name for name in VARIANTS if name != "projected"])
def test_states_after_every_step(name: str, backend: str) -> None:
    need(backend)
    layer = make(name, backend).double()
    x = torch.randn(T, B, INPUT, dtype=torch.float64)
    resets = torch.rand(T, B) < 0.2
    y, last, every = layer(x, lengths=LENGTHS, resets=resets, return_states=True)
    width = y.size(-1) // H
    shown = torch.cat([tensors(every)[0][:, n] for n in range(-width, 0)], -1)
    assert torch.equal(shown, y)
    if layer.direction == "forward" and width == 1:
        rows = [row for row, length in enumerate(LENGTHS.tolist()) if length]
        for states, final in zip(tensors(every), tensors(last), strict=True):
            for row in rows:
                assert torch.equal(states[LENGTHS[row] - 1, :, row], final[:, row])
    if name in RANDOM:
        layer.eval()
    if layer.direction == "forward" and width == 1:
        every = layer(x, return_states=True)[2]
        for steps in (1, 4, T):
            _, final = layer(x[:steps])
            for states, one in zip(tensors(every), tensors(final), strict=True):
                assert_within_budget(states[steps - 1], one)


@pytest.mark.parametrize("name", ["coupled", "both", "normalised", "held", "all"])
def test_derivatives_of_states_after_every_step(name: str) -> None:
    layer = make(name).double()
    resets = torch.tensor([[False, True], [False, False], [True, False]])

    def cells(x: Tensor, *weights: Tensor) -> Any:
        torch.manual_seed(5)
        own = dict(zip(dict(layer.named_parameters()), weights, strict=True))
        extra = {"return_states": True, "resets": resets}
        _, (_, cn), (_, every) = torch.func.functional_call(layer, own, (x,), extra)
        return every, cn

    x = torch.randn(3, 2, INPUT, dtype=torch.float64, requires_grad=True)
    given = (x, *layer.parameters())
    assert torch.autograd.gradcheck(cells, given, fast_mode=True)
    assert torch.autograd.gradgradcheck(cells, given, fast_mode=True)


def test_states_beside_a_projection() -> None:
    with pytest.raises(
        RuntimeError, match="expected no options beside proj_size, got coupled=True"
    ):
        make("projected")(torch.randn(T, B, INPUT), return_states=True)


@pytest.mark.parametrize("name", VARIANTS)
def test_weights_packed_beforehand(name: str) -> None:
    layer = make(name).double()
    x = torch.randn(1, B, INPUT, dtype=torch.float64)
    for mode in (True, False):
        layer.train(mode)
        torch.manual_seed(2)
        y = layer(x)[0]
        torch.manual_seed(2)
        with torch.inference_mode(), fused_rnn.prepacked(layer):
            assert_within_budget(layer(x)[0], y)
            held = "prepacked" in explain(layer, x)
        able = extensions.why_unavailable() is None
        assert held == (able and name in PLAIN and not mode)


@pytest.mark.parametrize("name", [name for name in VARIANTS if name not in PLAIN])
def test_they_are_not_quantized(name: str) -> None:
    with pytest.raises(ValueError, match="expected one without coupled gates, heads or cells"):
        fused_rnn.quantize(nn.Sequential(make(name).eval()))


@pytest.mark.parametrize("name", [name for name in VARIANTS if name not in RANDOM])
def test_gradients_of_each_row(name: str) -> None:
    layer = make(name).double()
    x = torch.randn(T, B, INPUT, dtype=torch.float64)

    def loss(weights: dict[str, Tensor], x: Tensor) -> Tensor:
        y, _ = torch.func.functional_call(layer, weights, (x.unsqueeze(1),))
        return y.sin().sum()

    weights = {key: p.detach() for key, p in layer.named_parameters()}
    by_vmap = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 1))(weights, x)
    calls = _per_sample_grad.call_for_per_sample_grads
    asking = calls(layer, batch_size=B, loss_reduction="sum", batch_first=False)
    asking(x)[0].sin().sum().backward()
    for key, parameter in layer.named_parameters():
        for row in range(B):
            expected = torch.func.grad(loss)(weights, x[:, row])[key]
            assert_within_budget(by_vmap[key][row], expected)
            assert_within_budget(parameter.grad_sample[row], expected)
