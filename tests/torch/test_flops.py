# SPDX-License-Identifier: MIT
"""torch.utils.flop_counter finds what it finds in torch.nn's layers step by step."""

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from cases import CELLS, Case, make, need, options, run_layer
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence
from torch.utils.flop_counter import FlopCounterMode
from twins import ALL, DOUBLE, LAYERS, state, tensors, twins

import fused_rnn
from fused_rnn.nn.linear import Linear

T, B, N, H = 7, 3, 5, 11
KEYWORDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "layers": {"num_layers": 3, "dropout": 0.5},
    "both": {"num_layers": 2, "bidirectional": True},
    "bare": {"bias": False, "batch_first": True},
}


@pytest.fixture(autouse=True)
def native() -> None:
    need("native")


def flops(call: Callable[[], Any]) -> int:
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def trained(module: nn.Module, *args: Any) -> Callable[[], Any]:
    """A pass forward and back, from all outputs."""
    return lambda: sum(t.sum() for t in tensors(module(*args))).backward()


def packed(x: Tensor) -> PackedSequence:
    """The same rows, packed: so torch.nn runs its LSTM step by step."""
    return pack_padded_sequence(x, [x.shape[0]] * x.shape[1])


@pytest.mark.parametrize("name", KEYWORDS)
@pytest.mark.parametrize("kind", LAYERS)
def test_layers(kind: str, name: str) -> None:
    ours, theirs = twins(kind, N, H, **KEYWORDS[name] | {"batch_first": False})
    x = torch.randn(T, B, N, dtype=DOUBLE)
    with torch.no_grad():
        found = flops(lambda: ours(x))
        assert found == flops(lambda: theirs(packed(x))) > 0
    with torch.inference_mode():
        assert flops(lambda: ours(x)) == found
    rows = theirs.num_layers * (2 if theirs.bidirectional else 1)
    for learning in (False, True):
        x.requires_grad_(learning)
        hx = tensors(state(kind, rows, B, H, requires_grad=learning))
        hx = tuple(hx) if kind == "LSTM" else hx[0]
        assert flops(trained(ours, x, hx)) == flops(trained(theirs, packed(x), hx)) > found
        assert flops(trained(ours, x)) == flops(trained(theirs, packed(x)))


def test_states_of_every_step() -> None:
    layer = fused_rnn.FusedLSTM(N, H, num_layers=2, bidirectional=True)
    x, hx = torch.randn(T, B, N), (torch.zeros(4, B, H, requires_grad=True),) * 2

    def call(x: Tensor) -> Any:
        return layer(x, hx, return_states=True)

    alone = trained(layer, x, hx)
    assert flops(lambda: sum(t.sum() for t in tensors(call(x))).backward()) == flops(alone) > 0


@pytest.mark.parametrize("kind", ["RNN", "GRU"])
def test_padded_as_torch_counts_it(kind: str) -> None:
    ours, theirs = twins(kind, N, H, batch_first=True, bias=False)
    x = torch.randn(B, T, N, dtype=DOUBLE)
    assert flops(trained(ours, x)) == flops(trained(theirs, x)) > 0


@pytest.mark.parametrize("both", [False, True])
def test_projections(both: bool) -> None:
    ours, theirs = twins("LSTM", N, H, proj_size=4, num_layers=2, bidirectional=both)
    x = torch.randn(T, B, N, dtype=DOUBLE)
    assert flops(trained(ours, x)) == flops(trained(theirs, packed(x))) > 0


@pytest.mark.parametrize("kind", LAYERS)
def test_packed_rows_are_those_that_are_there(kind: str) -> None:
    ours, theirs = twins(kind, N, H, num_layers=2)
    x = pack_padded_sequence(torch.randn(T, B, N, dtype=DOUBLE), [7, 4, 2])
    assert flops(trained(ours, x)) == flops(trained(theirs, x)) > 0


@pytest.mark.parametrize("kind", [kind for kind in ALL if kind not in LAYERS])
def test_cells(kind: str) -> None:
    ours, theirs = twins(kind, N, H)
    for learning in (False, True):
        x = torch.randn(B, N, dtype=DOUBLE, requires_grad=learning)
        assert flops(trained(ours, x)) == flops(trained(theirs, x)) > 0


@pytest.mark.parametrize("case", [c for cell in CELLS for c in options(cell)], ids=str)
def test_ops_as_the_reference(case: Case) -> None:
    """Of any needs; `lengths` and resets make no difference."""
    inputs = make(case)

    def count(backend: str, *names: str) -> int:
        leaves = {n: getattr(inputs, n) for n in ("x", "h0", "c0")}
        leaves = {n: t if t is None else t.clone() for n, t in leaves.items()}
        weights = [w.clone() for w in inputs.weights]
        for leaf in [t for n, t in leaves.items() if n in names and t is not None]:
            leaf.requires_grad_()
        for weight in weights if "weights" in names else ():
            weight.requires_grad_()

        def call() -> None:
            found = run_layer(
                *(*leaves.values(), weights, inputs.lengths, inputs.resets),
                cell=case.cell,
                reverse=case.reverse,
                backend=backend,
            )
            sum(t.sum() for t in found if t is not None).backward()

        return flops(call)

    for names in (("x",), ("weights",), ("x", "h0", "c0", "weights")):
        assert count("native", *names) == count("reference", *names) > 0


@pytest.mark.parametrize("kind", ALL)
def test_prepacked(kind: str) -> None:
    options = {"num_layers": 2, "bidirectional": True} if kind in LAYERS else {}
    layer = ALL[kind][0](N, H, **options)
    x = torch.randn(T, B, N) if kind in LAYERS else torch.randn(B, N)
    with torch.no_grad():
        expected = flops(lambda: layer(x))
        with fused_rnn.prepacked(layer):
            assert flops(lambda: layer(x)) == expected > 0


def test_prepacked_projection_and_linear() -> None:
    layers = [fused_rnn.FusedLSTM(N, H, proj_size=4), Linear(N, H)]
    x = torch.randn(T, B, N)
    for layer in layers:
        with torch.no_grad():
            expected = flops(lambda layer=layer: layer(x))
            with fused_rnn.prepacked(layer):
                assert flops(lambda layer=layer: layer(x)) == expected > 0


def test_without_numbers() -> None:
    layer = fused_rnn.FusedGRU(N, H, backend="native")
    expected = flops(trained(layer, torch.randn(T, B, N)))
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert flops(trained(layer, torch.randn(T, B, N))) == expected
    assert flops(trained(layer.to("meta"), torch.randn(T, B, N, device="meta"))) == expected


IMPORTS = ("import fused_rnn", "from torch.utils.flop_counter import FlopCounterMode")


@pytest.mark.parametrize("lines", [IMPORTS, IMPORTS[::-1]], ids=["before", "after"])
def test_the_order_of_imports(lines: tuple[str, str]) -> None:
    code = "\n".join(
        [
            "import sys, torch",
            *lines,
            "with FlopCounterMode(display=False) as counter:",
            "    fused_rnn.FusedGRU(2, 3)(torch.ones(1, 1, 2))",
            "assert counter.get_total_flops() == 2 * 9 * 5",
        ]
    )
    subprocess.run([sys.executable, "-c", code], check=True)
