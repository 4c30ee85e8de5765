# SPDX-License-Identifier: MIT
"""Weights packed beforehand: the same results, from nothing but the weights they were made of."""

import copy
import gc
import io
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from cases import (
    CELLS,
    DTYPES,
    INSTRUCTION_SETS,
    Case,
    judge_outputs,
    make,
    need,
    options,
    run,
    run_prepacked,
)
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize
from twins import state, tensors

import fused_rnn
from fused_rnn import ops
from fused_rnn.nn import prepacking
from fused_rnn.nn.linear import Linear
from fused_rnn.seq2seq import LanguageModel, LanguageModelConfig, beam_search, greedy_search
from fused_rnn.testing import assert_within_budget

KINDS = ("RNN", "GRU", "LSTM")


@pytest.fixture(autouse=True)
def available() -> None:
    need("native")


@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize(
    "case", [case for c in CELLS for d in DTYPES for case in options(c, d)], ids=str
)
def test_every_option(case: Case, steps: int) -> None:
    case = replace(case, steps=steps)
    judge_outputs(case, run_prepacked(case), "prepacked")


@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS, indirect=True)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cell", CELLS)
def test_every_instruction_set(instruction_set: str, cell: str, dtype: str) -> None:
    for case in (
        Case(cell, 1, 7, 19, 37, dtype, reverse=(0, 1), resets=True),
        Case(cell, 2, 40, 70, 96, dtype),
    ):
        judge_outputs(case, run_prepacked(case), f"prepacked {instruction_set}")


@pytest.mark.parametrize("cell", CELLS)
def test_calls_of_more_steps_give_the_same_bits(cell: str) -> None:
    case = Case(cell, 9, 5, 19, 37, "fp32", reverse=(0, 1), lengths=True)
    ours, plain = run_prepacked(case), run(case, make(case), "native")
    assert all(torch.equal(ours[name], plain[name]) for name in ours)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cell", CELLS)
def test_a_step_is_a_sequence_of_one(cell: str, dtype: str) -> None:
    x, h0, c0, weights = make(Case(cell, 1, 5, 19, 37, dtype))[:4]
    pack = ops.prepack(weights, cell, (0,))
    for given in ((x, h0, c0), (x, None, None), (x[:, :0], None, None)):
        step = ops.prepacked_step(*(None if t is None else t[0] for t in given), pack)
        _, *sequence = ops.prepacked_forward(*given, pack, None, None)
        for ours, expected in zip(step, sequence, strict=True):
            assert (ours is None) == (expected is None)
            assert ours is None or torch.equal(ours, expected[0])


@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS, indirect=True)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
def test_linear(instruction_set: str, dtype: str, bias: bool) -> None:
    for rows, inputs, columns in ((1, 1, 1), (3, 37, 65), (13, 300, 131), (40, 64, 64)):
        module = Linear(inputs, columns, bias=bias, dtype=DTYPES[dtype])
        x = torch.randn(2, rows, inputs, dtype=DTYPES[dtype])
        with torch.no_grad(), fused_rnn.prepacked(module):
            found = module(x)
            alone = module(x[1, -1])
        truth = nn.functional.linear(*(t.double() for t in (x, *module.parameters())))
        reference = nn.functional.linear(x, *module.parameters()).detach()
        assert_within_budget(found, truth.detach(), reference, case=(rows, inputs, columns))
        assert torch.equal(found[1, -1], alone), "a row's bits depend on its batch"


def test_linear_goes_elsewhere() -> None:
    module = Linear(6, 4)
    x = torch.randn(3, 6)
    with fused_rnn.prepacked(module):
        assert module(x).requires_grad
        with torch.no_grad():
            assert_within_budget(torch.func.vmap(module)(x), module(x).double(), module(x))
            with torch.autocast("cpu", torch.bfloat16):
                assert module(x).dtype == torch.bfloat16
            for wrong in (x[:, :3], x.double(), x.to("meta")):
                with pytest.raises(RuntimeError):
                    module(wrong)
            assert module(x[:0]).shape == (0, 4)


def judge_module(module: nn.Module, *args: Any, **options: Any) -> None:
    """A module's results inside the context, against those outside."""
    truth = copy.deepcopy(module).double()(*_double(args), **options)
    with torch.no_grad():
        reference = module(*args, **options)
        with fused_rnn.prepacked(module):
            found = module(*args, **options)
    for ours, exact, plain in zip(*map(tensors, (found, truth, reference)), strict=True):
        assert_within_budget(ours, exact.detach(), plain)


def _double(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(_double(one) for one in value)
    return value.double() if isinstance(value, Tensor) else value


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("steps", [1, 7])
def test_modules(kind: str, steps: int) -> None:
    module = getattr(fused_rnn, f"Fused{kind}")(5, 33, 3, bidirectional=True, batch_first=True)
    judge_module(module, torch.randn(4, steps, 5), state(kind, 6, 4, 33, dtype=torch.float32))
    judge_module(module, torch.randn(4, steps, 5), lengths=[steps, 1, 0, steps])


@pytest.mark.parametrize("kind", KINDS)
def test_cells(kind: str) -> None:
    module = getattr(fused_rnn, f"Fused{kind}Cell")(5, 33)
    judge_module(module, torch.randn(4, 5), state(kind, 4, 33, dtype=torch.float32))
    judge_module(module, torch.randn(5))


def test_other_modules_run_as_ever() -> None:
    model = nn.ModuleDict({"rnn": fused_rnn.FusedGRU(3, 4), "out": nn.Linear(4, 2)})
    with fused_rnn.prepacked(model):
        assert model["rnn"] in prepacking._kept
        assert model["out"] not in prepacking._kept


@pytest.fixture
def layer() -> fused_rnn.FusedGRU:
    return fused_rnn.FusedGRU(3, 20)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What the op on packed weights is called with."""
    made: list[object] = []

    def forward(*args: Any) -> Any:
        made.append(args)
        return ops.prepacked_forward(*args)

    monkeypatch.setattr("fused_rnn.nn.fused_layer.prepacked_forward", forward)
    return made


X = torch.randn(1, 2, 3)


def test_who_takes_packed_weights(layer: fused_rnn.FusedGRU, calls: list[object]) -> None:
    with fused_rnn.prepacked(layer):
        with torch.no_grad():
            layer(X)
        assert len(calls) == 1
        # A gradient is recorded; another backend; another dtype.
        layer(X)
        with torch.no_grad(), fused_rnn.use_backend("reference"):
            layer(X)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            layer(X)
        assert len(calls) == 1
    with torch.no_grad():
        layer(X)
    assert len(calls) == 1


def test_dropout_is_drawn(calls: list[object]) -> None:
    layer = fused_rnn.FusedGRU(3, 20, 2, dropout=1.0)
    with torch.no_grad(), fused_rnn.prepacked(layer):
        dropped, kept = layer(X)[0], layer.eval()(X)[0]
    assert not torch.equal(dropped, kept)
    assert len(calls) == 2, "two layers, in evaluation only"


def test_weights_made_in_inference_mode(calls: list[object]) -> None:
    with torch.inference_mode():
        layer = fused_rnn.FusedGRU(3, 20)
        with fused_rnn.prepacked(layer):
            layer(X)
    assert len(calls) == 1


def test_gradients_inside(layer: fused_rnn.FusedGRU) -> None:
    def grads() -> tuple[Tensor, ...]:
        return torch.autograd.grad(layer(X)[0].sum(), list(layer.parameters()))

    expected = grads()
    with fused_rnn.prepacked(layer):
        assert all(map(torch.equal, grads(), expected))


def scaled(layer: nn.GRU) -> None:
    with torch.no_grad():
        layer.weight_hh_l0 *= 2


def replaced(layer: nn.GRU) -> None:
    layer.bias_ih_l0 = nn.Parameter(torch.zeros(60))


def loaded(layer: nn.GRU) -> None:
    layer.load_state_dict(fused_rnn.FusedGRU(3, 20).state_dict())


@pytest.mark.parametrize("change", [scaled, replaced, loaded])
def test_weights_must_stay(layer: fused_rnn.FusedGRU, change: Callable[[Any], None]) -> None:
    with torch.no_grad():
        with fused_rnn.prepacked(layer):
            layer(X)
            change(layer)
            with pytest.raises(RuntimeError, match=r"weights: expected those .* got others"):
                layer(X)
        changed = layer(X)[0]
        with fused_rnn.prepacked(layer):
            assert_within_budget(layer(X)[0], changed.double(), changed)


def test_contexts_nest(layer: fused_rnn.FusedGRU, calls: list[object]) -> None:
    with torch.no_grad(), fused_rnn.prepacked(layer):
        with pytest.raises(ZeroDivisionError), fused_rnn.prepacked(layer):
            raise ZeroDivisionError
        layer(X)
    assert len(calls) == 1
    assert layer not in prepacking._kept


def test_copies_carry_nothing(layer: fused_rnn.FusedGRU, calls: list[object]) -> None:
    with torch.no_grad(), fused_rnn.prepacked(layer):
        file = io.BytesIO()
        torch.save(layer, file)
        file.seek(0)
        for twin in (copy.deepcopy(layer), torch.load(file, weights_only=False)):
            twin(X)
    assert not calls


def test_a_module_that_dies_with_its_context() -> None:
    gc.collect()
    before = len(prepacking._kept)
    layer: Any = fused_rnn.FusedGRU(3, 4)
    layer.held = fused_rnn.prepacked(layer)
    layer.held.__enter__()
    assert len(prepacking._kept) == before + 1
    del layer
    gc.collect()
    assert len(prepacking._kept) == before


def test_computed_weights_are_left_alone(calls: list[object]) -> None:
    layer = fused_rnn.FusedGRU(3, 20)
    parametrizations.weight_norm(layer, "weight_hh_l0")
    with torch.no_grad(), fused_rnn.prepacked(layer):
        layer(X)
    assert not calls


def test_a_linear_layer_computes_its_weights_once() -> None:
    evaluations = []

    class Counted(nn.Module):
        def forward(self, weight: Tensor) -> Tensor:
            evaluations.append(weight)
            return weight

    module = Linear(3, 4)
    parametrize.register_parametrization(module, "weight", Counted())
    with torch.no_grad(), fused_rnn.prepacked(module):
        evaluations.clear()
        module(torch.randn(2, 3))
    assert len(evaluations) == 1


@pytest.mark.parametrize(("steps", "packed"), [(7, False), (8, True)])
def test_searches_of_some_length_pack_by_themselves(steps: int, packed: bool) -> None:
    model = LanguageModel(LanguageModelConfig(9, hidden_size=8))
    held = []
    model.rnn.register_forward_hook(
        lambda *_: held.append((model.rnn in prepacking._kept, model.output in prepacking._kept))
    )
    for search in (greedy_search, beam_search):
        search(model, model.initial_state(2), bos=0, eos=None, pad=1, max_length=steps)
    assert set(held) == {(packed, packed)}
    assert model.rnn not in prepacking._kept


def test_torch_compile_sees_plain_weights(layer: fused_rnn.FusedGRU) -> None:
    compiled = torch.compile(layer, backend="eager", fullgraph=True)
    with torch.no_grad(), fused_rnn.prepacked(layer):
        found, truth = compiled(X)[0], layer(X)[0]
    assert_within_budget(found, truth.double(), truth)
