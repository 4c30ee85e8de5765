# SPDX-License-Identifier: MIT
"""The reference against torch.nn, and against equations that torch.nn does not have."""

import pytest
import torch
from cases import Case, make, oracle, run
from torch import Tensor, nn

from fused_rnn import functional
from fused_rnn._call import stack
from fused_rnn._call.arguments import Arguments
from fused_rnn.backends.reference import reference_layer
from fused_rnn.testing import assert_within_budget

MODULES = {
    "rnn_tanh": (nn.RNN, {"nonlinearity": "tanh"}),
    "rnn_relu": (nn.RNN, {"nonlinearity": "relu"}),
    "gru": (nn.GRU, {}),
    "lstm": (nn.LSTM, {}),
    "lstm-projected": (nn.LSTM, {"proj_size": 3}),
}


def outputs_and_gradients(
    outputs: list[Tensor], leaves: list[Tensor], cotangents: list[Tensor]
) -> list[Tensor]:
    grads = torch.autograd.grad(outputs, leaves, cotangents)
    return [*(output.detach() for output in outputs), *grads]


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "nobias"])
@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("name", MODULES)
def test_equals_torch_nn(name: str, layers: int, directions: int, bias: bool) -> None:
    make_module, keywords = MODULES[name]
    keywords = {**keywords, "bias": bias, "bidirectional": directions == 2}
    module = make_module(4, 6, layers, dtype=torch.float64, **keywords)
    x = torch.randn(7, 3, 4, dtype=torch.float64, requires_grad=True)
    rows = layers * directions
    h0 = torch.randn(rows, 3, keywords.get("proj_size", 6), dtype=x.dtype, requires_grad=True)
    c0 = torch.randn(rows, 3, 6, dtype=x.dtype, requires_grad=True)
    states = [h0, c0] if name.startswith("lstm") else [h0]
    weights = list(module.parameters())
    y, last = module(x, tuple(states) if len(states) == 2 else h0)
    expected = [y, *(last if len(states) == 2 else (last,))]
    found = stack.stack(
        Arguments(x, h0, c0 if len(states) == 2 else None, None, None),
        weights,
        cell=name.partition("-")[0],
        reverse=(0, 1)[:directions],
        dropout=0.0,
        training=True,
        backend="reference",
    )
    cotangents = [torch.randn_like(tensor) for tensor in expected]
    leaves = [x, *states, *weights]
    pairs = zip(
        outputs_and_gradients([t for t in found if t is not None], leaves, cotangents),
        outputs_and_gradients(expected, leaves, cotangents),
        strict=True,
    )
    for index, (actual, truth) in enumerate(pairs):
        assert_within_budget(actual, truth, name=f"tensor {index}", case=name)


def test_textbook_gru_equals_its_equations() -> None:
    """Cho et al. 2014, eqs. 5 to 8, with z as the share of the old state."""
    case = Case("gru_reset_before")
    inputs = make(case)
    w_ih, w_hh, b_ih, b_hh = (w.clone().requires_grad_() for w in inputs.weights)
    x, h0 = inputs.x.clone().requires_grad_(), inputs.h0.clone().requires_grad_()
    w_ir, w_iz, w_in = w_ih.split(case.hidden)
    w_hr, w_hz, w_hn = w_hh.split(case.hidden)
    b_ir, b_iz, b_in = b_ih.split(case.hidden)
    b_hr, b_hz, b_hn = b_hh.split(case.hidden)
    h, steps = h0[0], []
    for x_t in x:
        r = 1 / (1 + torch.exp(-(x_t @ w_ir.T + b_ir + h @ w_hr.T + b_hr)))
        z = 1 / (1 + torch.exp(-(x_t @ w_iz.T + b_iz + h @ w_hz.T + b_hz)))
        n = torch.tanh(x_t @ w_in.T + b_in + (r * h) @ w_hn.T + b_hn)
        h = (1 - z) * n + z * h
        steps.append(h)
    leaves = [x, h0, w_ih, w_hh, b_ih, b_hh]
    outputs = [torch.stack(steps).unsqueeze(2), h.unsqueeze(0)]
    expected = outputs_and_gradients(outputs, leaves, list(inputs.cotangents))
    for (name, actual), truth in zip(run(case, inputs, "reference").items(), expected, strict=True):
        assert_within_budget(actual, truth, name=name, case=case)


def test_the_two_grus_are_two_models() -> None:
    after, before = (oracle(Case(cell))[0]["y"] for cell in ("gru", "gru_reset_before"))
    assert (after - before).abs().max() > 1e-3


@pytest.mark.parametrize("cell", ["rnn_tanh", "gru", "gru_reset_before", "lstm"])
def test_recurrences_side_by_side_are_single_ones(cell: str) -> None:
    case = Case(cell, reverse=(0, 1, 1, 0), lengths=True, resets=True)
    inputs = make(case)
    per = len(inputs.weights) // 4
    together = run(case, inputs, "reference")
    dx = torch.zeros_like(inputs.x)
    for n, back in enumerate(case.reverse):
        single = inputs._replace(
            h0=inputs.h0[n : n + 1],
            c0=None if inputs.c0 is None else inputs.c0[n : n + 1],
            weights=inputs.weights[n * per : (n + 1) * per],
            cotangents=tuple(
                c[:, :, n : n + 1] if c.dim() == 4 else c[n : n + 1] for c in inputs.cotangents
            ),
        )
        alone = run(Case(cell, reverse=(back,)), single, "reference")
        assert_within_budget(together["y"][:, :, n], alone["y"][:, :, 0], name="y", case=case)
        for name in ("hn", "cn", "dh0", "dc0"):
            if name in alone:
                assert_within_budget(together[name][n], alone[name][0], name=name, case=case)
        for index in range(per):
            grad = together[f"dweights[{n * per + index}]"]
            assert_within_budget(grad, alone[f"dweights[{index}]"], name="dw", case=case)
        dx += alone["dx"]
    assert_within_budget(together["dx"], dx, name="dx", case=case)


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
@pytest.mark.parametrize("cell", ["rnn_relu", "gru", "lstm"])
def test_half_types_round_only_the_outputs(cell: str, dtype: str) -> None:
    case = Case(cell, dtype=dtype, reverse=(0, 1), resets=True)
    inputs = make(case)
    wide = run(case, inputs.to(torch.float32), "reference")
    for name, tensor in run(case, inputs, "reference").items():
        assert torch.equal(tensor, wide[name].to(tensor.dtype)), name


@pytest.mark.parametrize("backend", ["torch", "reference"])
@pytest.mark.parametrize("name", ["rnn_tanh", "gru", "lstm"])
def test_complex_numbers(name: str, backend: str) -> None:
    module = MODULES[name][0](4, 6, dtype=torch.complex128)
    x = torch.randn(7, 3, 4, dtype=torch.complex128)
    call = getattr(functional, name.partition("_")[0])
    results = []
    weights = list(module.parameters())
    for y, _ in (module(x), call(x, None, weights, backend=backend)):
        grads = torch.autograd.grad(y.abs().square().sum(), weights)
        results.append([torch.view_as_real(t.detach().resolve_conj()) for t in (y, *grads)])
    for found, truth in zip(*reversed(results), strict=True):
        assert_within_budget(found, truth, backend=backend, case=name)


@pytest.mark.filterwarnings("ignore:fused_rnn. no fused kernel")
def test_numbers_of_eight_bits() -> None:
    inputs = make(Case("gru", dtype="fp32"))
    x, *weights = (t.to(torch.float8_e4m3fn) for t in (inputs.x, *inputs.weights))
    y, _ = functional.gru(x, None, weights)
    wide, _ = functional.gru(x.float(), None, [w.float() for w in weights], backend="reference")
    assert torch.equal(y.float(), wide.to(y.dtype).float())


def test_absent_states_are_zeros() -> None:
    case = Case("lstm", states=False)
    inputs = make(case)
    zeros = torch.zeros(1, case.batch, case.hidden, dtype=torch.float64)
    keywords = {"cell": "lstm", "reverse": (0,)}
    absent = reference_layer(inputs.x, None, None, inputs.weights, None, None, **keywords)
    given = reference_layer(inputs.x, zeros, zeros, inputs.weights, None, None, **keywords)
    for a, b in zip(absent, given, strict=True):
        assert torch.equal(a, b)
