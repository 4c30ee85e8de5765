# SPDX-License-Identifier: MIT
"""Random configurations of the layers, on the compiled backend against the reference."""

from copy import deepcopy
from typing import Any

import pytest
import torch
from cases import DTYPES, need
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

import fused_rnn
from fused_rnn.testing import assert_within_budget

KINDS = {
    "relu": (fused_rnn.FusedRNN, {"nonlinearity": "relu"}),
    "tanh": (fused_rnn.FusedRNN, {}),
    "gru": (fused_rnn.FusedGRU, {}),
    "textbook": (fused_rnn.FusedGRU, {"reset_after": False}),
    "lstm": (fused_rnn.FusedLSTM, {}),
    "projected": (fused_rnn.FusedLSTM, {}),
}
FORMS = ("padded", "unbatched", "packed")


@st.composite
def configurations(draw: st.DrawFn) -> dict[str, Any]:
    """A layer, the form of its input, and the seed of all numbers."""
    kind = draw(st.sampled_from(sorted(KINDS)))
    dtype = draw(st.sampled_from(sorted(DTYPES)))
    if kind == "relu" and dtype in ("bf16", "fp16"):
        # Where its slope jumps, a rounded sum may fall on the other side: no truth to compare.
        kind = "tanh"
    # A few numbers that are small differences of large ones give rounding no measure; float64
    # is judged by so many roundings that it needs none.
    least = 1 if dtype == "fp64" else 12
    hidden = draw(st.integers(least + 1, 48))
    form = draw(st.sampled_from(FORMS if dtype == "fp64" else ("padded", "packed")))
    # No sequence at all cannot be packed.
    rows = (0 if form == "padded" else 1) if dtype == "fp64" else 6
    return {
        "kind": kind,
        "dtype": dtype,
        "inputs": draw(st.integers(least, 40)),
        "hidden": hidden,
        "projection": draw(st.integers(least, hidden - 1)) if kind == "projected" else 0,
        "layers": draw(st.integers(1, 3)),
        "bias": draw(st.booleans()),
        "bidirectional": draw(st.booleans()),
        "batch_first": draw(st.booleans()),
        "form": form,
        "steps": draw(st.integers(1, 12)),
        "batch": draw(st.integers(rows, 12)),
        "lengths": draw(st.booleans()) and form != "packed",
        "resets": draw(st.booleans()),
        "states": draw(st.booleans()),
        "strided": draw(st.booleans()),
        "seed": draw(st.integers(0, 2**31)),
    }


def build(config: dict[str, Any]) -> nn.Module:
    make, keywords = KINDS[config["kind"]]
    if config["projection"]:
        keywords = {"proj_size": config["projection"]}
    return make(
        config["inputs"],
        config["hidden"],
        config["layers"],
        bias=config["bias"],
        batch_first=config["batch_first"],
        bidirectional=config["bidirectional"],
        dtype=DTYPES[config["dtype"]],
        **keywords,
    )


def arguments(config: dict[str, Any]) -> dict[str, Any]:
    """Keyword arguments of the call, in float64."""
    steps, batch = config["steps"], config["batch"]
    time_first = not config["batch_first"]
    grid = (steps, batch) if time_first else (batch, steps)
    grid = (steps,) if config["form"] == "unbatched" else grid
    x: Any = torch.randn(*grid, config["inputs"], dtype=torch.float64)
    if config["strided"]:
        x = x.transpose(0, -1).contiguous().transpose(0, -1)
    marks = torch.rand(grid) < 0.25
    if config["form"] == "packed":
        sizes = torch.randint(1, steps + 1, (batch,))
        x = pack_padded_sequence(x, sizes, config["batch_first"], enforce_sorted=False)
        marks = marks.flatten()[: x.data.shape[0]]
    rows = config["layers"] * (1 + config["bidirectional"])
    lead = (rows,) if config["form"] == "unbatched" else (rows, batch)
    out = config["projection"] or config["hidden"]
    h = torch.randn(*lead, out, dtype=torch.float64)
    hx = (h, torch.randn(*lead, config["hidden"], dtype=torch.float64))
    rows_of_input = () if config["form"] == "unbatched" else (batch,)
    return {
        "input": x,
        "hx": (hx if config["kind"] in ("lstm", "projected") else h) if config["states"] else None,
        "lengths": torch.randint(0, steps + 1, rows_of_input) if config["lengths"] else None,
        "resets": marks if config["resets"] else None,
    }


def evaluate(module: nn.Module, given: dict[str, Any], backend: str) -> dict[str, Tensor]:
    """Outputs and gradients of all there is, in the module's own type."""
    dtype, leaves = next(module.parameters()).dtype, []

    def leaf(value: Any) -> Any:
        if isinstance(value, PackedSequence):
            return value._replace(data=leaf(value.data))
        if isinstance(value, tuple):
            return tuple(map(leaf, value))
        if not isinstance(value, Tensor) or not value.is_floating_point():
            return value
        leaves.append(value.to(dtype).requires_grad_())
        return leaves[-1]

    with fused_rnn.use_backend(backend):
        output, last = module(**{name: leaf(value) for name, value in given.items()})
    output = output.data if isinstance(output, PackedSequence) else output
    outputs = [output, *(last if isinstance(last, tuple) else (last,))]
    draw = torch.Generator().manual_seed(1)
    cotangents = [
        torch.randn(o.shape, generator=draw, dtype=torch.float64).to(dtype) for o in outputs
    ]
    parameters = dict(module.named_parameters())
    grads = torch.autograd.grad(outputs, [*leaves, *parameters.values()], cotangents)
    names = [f"d{number}" for number in range(len(leaves))] + [f"d{name}" for name in parameters]
    found = dict(zip(("output", "hn", "cn"), outputs, strict=False))
    return found | dict(zip(names, grads, strict=True))


def holds(config: dict[str, Any]) -> None:
    torch.manual_seed(config["seed"])
    module, given_arguments = build(config), arguments(config)
    # The truth starts from the numbers as the type in question rounds them.
    rounded = torch.utils._pytree.tree_map_only(
        Tensor,
        lambda t: t.to(DTYPES[config["dtype"]]).double() if t.is_floating_point() else t,
        given_arguments,
    )
    truth = evaluate(deepcopy(module).double(), rounded, "reference")
    reference = evaluate(module, rounded, "reference")
    for name, tensor in evaluate(module, rounded, "native").items():
        assert_within_budget(
            tensor.detach(), truth[name].detach(), reference[name].detach(), name=name, case=config
        )


@settings(max_examples=300)
@given(configurations())
def test_some_configurations(config: dict[str, Any]) -> None:
    need("native")
    holds(config)


@pytest.mark.long
@settings(max_examples=2_000)
@given(configurations())
def test_many_configurations(config: dict[str, Any]) -> None:
    need("native")
    holds(config)
