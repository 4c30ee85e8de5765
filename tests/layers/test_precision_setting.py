# SPDX-License-Identifier: MIT
"""torch's settings of float32 precision: under which names, and what layers make of them."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch
from cases import (
    CELLS,
    INSTRUCTION_SETS,
    Case,
    Inputs,
    judge,
    make,
    need,
    oracle,
    reset_precision,
    run,
    run_layer,
)
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch.backends import mkldnn
from torch.func import functional_call, grad, jvp, vjp, vmap

import fused_rnn
from fused_rnn._call.matmul_precision import products_of
from fused_rnn.testing import assert_within_budget, errors

PRODUCTS = {"highest": 6, "high": 3, "medium": 1}
SPLITTING = ("amx", "amx_twin")
NUMBER = torch.zeros(1)

each_precision = pytest.mark.parametrize("precision", PRODUCTS)
reduced = pytest.mark.parametrize("precision", ["high", "medium"])
splitting = pytest.mark.parametrize("instruction_set", SPLITTING, indirect=True)
each_set = pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS, indirect=True)


@pytest.fixture(autouse=True)
def as_a_process_starts() -> Iterator[None]:
    need("native")
    yield
    reset_precision()
    assert products_of(NUMBER) == 6
    torch._dynamo.reset()


def cases_of(cell: str) -> list[Case]:
    plain = Case(cell, dtype="fp32")
    every = [
        replace(plain, hidden=65, inputs=33, steps=5),
        replace(plain, hidden=64, inputs=64, batch=16, steps=5),
        replace(plain, reverse=(0, 1), lengths=True, resets=True, batch=7, steps=9),
    ]
    return every + [replace(every[2], projection=5, bias=False)] * (cell == "lstm")


@pytest.mark.parametrize(
    ("value", "products"), [("ieee", 6), ("tf32", 3), ("bf16", 1), ("none", 6)]
)
def test_every_fp32_precision(value: str, products: int) -> None:
    for holder in (mkldnn.rnn, mkldnn.matmul, torch.backends):
        holder.fp32_precision = value
        assert products_of(NUMBER) == products
        holder.fp32_precision = "none"
    with mkldnn.flags(enabled=True, allow_tf32=None, fp32_precision=value):
        assert products_of(NUMBER) == products
    assert products_of(NUMBER) == 6


@each_precision
def test_the_older_name(precision: str) -> None:
    torch.set_float32_matmul_precision(precision)
    assert products_of(NUMBER) == PRODUCTS[precision]


def test_the_setting_of_recurrent_layers_goes_first() -> None:
    torch.set_float32_matmul_precision("medium")
    mkldnn.rnn.fp32_precision = "tf32"
    assert products_of(NUMBER) == 3
    mkldnn.rnn.fp32_precision = "ieee"
    assert products_of(NUMBER) == 6


def test_only_float32_on_the_cpu_is_split() -> None:
    torch.set_float32_matmul_precision("medium")
    for dtype in (torch.float64, torch.bfloat16, torch.float16):
        assert products_of(NUMBER.to(dtype)) == 6
    assert products_of(NUMBER.to("meta")) == 6


@each_set
@reduced
@pytest.mark.parametrize("case", [c for cell in CELLS for c in cases_of(cell)], ids=str)
def test_one_rule(instruction_set: str, precision: str, case: Case) -> None:
    torch.set_float32_matmul_precision(precision)
    judge(case, run(case, make(case), "native"), f"native {instruction_set} {precision}")


@each_set
@pytest.mark.parametrize("cell", CELLS)
def test_fewer_products_are_other_numbers(instruction_set: str, cell: str) -> None:
    case = cases_of(cell)[0]
    truth, plain = oracle(case)
    found = {}
    for precision in PRODUCTS:
        torch.set_float32_matmul_precision(precision)
        found[precision] = run(case, make(case), "native")
    for name, tensor in found["highest"].items():
        results = [found[precision][name] for precision in PRODUCTS]
        if instruction_set not in SPLITTING:
            assert all(torch.equal(tensor, other) for other in results), name
            continue
        assert_within_budget(tensor, truth[name], plain[name], name=name, case=case)
        exact, high, medium = (errors(result, truth[name]).rms for result in results)
        assert 2 * exact < high < medium / 16, name


@pytest.mark.parametrize("cell", CELLS)
def test_six_stay_six_where_torch_rounds_its_own(cell: str) -> None:
    case = cases_of(cell)[2]
    truth, plain = oracle(case)
    torch.set_float32_matmul_precision("medium")
    mkldnn.rnn.fp32_precision = "ieee"
    for name, tensor in run(case, make(case), "reference").items():
        assert_within_budget(tensor, truth[name], plain[name], name=name, case=case)


@reduced
@pytest.mark.parametrize("dtype", ["fp64", "bf16", "fp16"])
def test_other_types_pay_no_heed(dtype: str, precision: str) -> None:
    case = replace(cases_of("gru")[2], dtype=dtype)
    truth, plain = oracle(case)
    torch.set_float32_matmul_precision(precision)
    for backend in ("native", "reference"):
        for name, tensor in run(case, make(case), backend).items():
            assert_within_budget(tensor, truth[name], plain[name], name=name, case=case)


def tensors(inputs: Inputs) -> list[Tensor]:
    every = (inputs.x, inputs.h0, inputs.c0, *inputs.weights)
    return [t.clone() for t in every if t is not None]


def layer(case: Case, backend: str) -> Callable[..., tuple[Tensor, ...]]:
    """The outputs as a function of `tensors`."""

    def outputs(x: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
        h0, c0, *weights = others if case.cell == "lstm" else (others[0], None, *others[1:])
        options = dict(cell=case.cell, reverse=case.reverse, backend=backend)
        found = run_layer(x, h0, c0, weights, None, None, **options)
        return tuple(t for t in found if t is not None)

    return outputs


def same(case: Case, results: Callable[[str, torch.dtype], list[Tensor]]) -> None:
    """Judges what `results` makes of the native backend by what it makes of the reference."""
    found, plain = results("native", torch.float32), results("reference", torch.float32)
    truth = results("reference", torch.float64)
    for index, three in enumerate(zip(found, truth, plain, strict=True)):
        assert_within_budget(*(t.detach() for t in three), name=f"tensor {index}", case=case)


@splitting
@pytest.mark.parametrize("cell", CELLS)
def test_the_gradient_takes_the_number_of_its_forward_pass(instruction_set: str, cell: str) -> None:
    case = cases_of(cell)[0]
    inputs = make(case)

    def gradients(after: str) -> tuple[Tensor, ...]:
        torch.set_float32_matmul_precision("high")
        leaves = [t.requires_grad_() for t in tensors(inputs)]
        outputs = layer(case, "native")(*leaves)
        torch.set_float32_matmul_precision(after)
        return torch.autograd.grad(outputs, leaves, inputs.cotangents)

    for first, second in zip(gradients("high"), gradients("medium"), strict=True):
        assert torch.equal(first, second)


@splitting
@reduced
@pytest.mark.parametrize("cell", ["rnn_tanh", "gru", "gru_reset_before", "lstm"])
def test_second_derivatives(instruction_set: str, cell: str, precision: str) -> None:
    torch.set_float32_matmul_precision(precision)
    case = Case(cell, 3, 3, 4, 5, "fp32", reverse=(0, 1))
    inputs = make(case)

    def results(backend: str, dtype: torch.dtype) -> list[Tensor]:
        these = inputs.to(dtype)
        leaves = [t.requires_grad_() for t in tensors(these)]
        outputs = layer(case, backend)(*leaves)
        first = torch.autograd.grad(outputs, leaves, these.cotangents, create_graph=True)
        total = sum(t.square().sum() for t in first)
        return [*first, *torch.autograd.grad(total, leaves)]

    same(case, results)


@splitting
@reduced
def test_transforms(instruction_set: str, precision: str) -> None:
    torch.set_float32_matmul_precision(precision)
    case = Case("gru", 3, 3, 4, 5, "fp32", reverse=(0, 1))
    inputs = make(case)

    def results(backend: str, dtype: torch.dtype) -> list[Tensor]:
        these = inputs.to(dtype)
        x, *others = tensors(these)
        outputs = layer(case, backend)

        def total(x: Tensor, *others: Tensor) -> Tensor:
            pairs = zip(outputs(x, *others), these.cotangents, strict=True)
            return sum((output.sin() * c).sum() for output, c in pairs)

        xs = torch.stack([x, x / 2, -x])
        dims = (0, *(None for _ in others))
        moved = jvp(outputs, (x, *others), (x / 3, *(t / 2 for t in others)))[1]
        return [
            *vmap(outputs, in_dims=dims)(xs, *others),
            vmap(grad(total), in_dims=dims)(xs, *others),
            *vmap(grad(total, argnums=(1, 2)), in_dims=dims)(xs, *others),
            *moved,
            *vjp(outputs, x, *others)[1](these.cotangents),
        ]

    same(case, results)


def follows_the_setting(module: torch.nn.Module) -> list[Tensor]:
    """The outputs of a compiled module by precision, each compared to those of eager calls."""
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(module, backend=counter, fullgraph=True)
    x, seen = torch.randn(3, 5, 20), []
    for precision in ("highest", "high", "medium", "high", "highest"):
        torch.set_float32_matmul_precision(precision)
        (y, _), (expected, _) = compiled(x), module(x)
        assert torch.equal(y, expected)
        if module.backend == "native":
            leaves, dy = list(module.parameters()), torch.randn_like(y)
            pair = [torch.autograd.grad(out, leaves, dy) for out in (y, expected)]
            assert all(torch.equal(a, b) for a, b in zip(*pair, strict=True))
        seen.append(y.detach())
    assert counter.frame_count == 3
    mkldnn.rnn.fp32_precision = "tf32"
    assert torch.equal(compiled(x)[0], seen[1])
    return seen[:3]


@each_set
def test_a_compiled_module_follows_the_setting(instruction_set: str) -> None:
    six, three, one = follows_the_setting(fused_rnn.FusedGRU(20, 33, backend="native"))
    split = instruction_set in SPLITTING
    assert torch.equal(six, three) is not split and torch.equal(three, one) is not split


def test_so_does_a_compiled_reference() -> None:
    six, three, one = follows_the_setting(fused_rnn.FusedGRU(20, 33, backend="reference"))
    assert not torch.equal(six, three) and not torch.equal(three, one)


def test_inductor_keeps_the_roundings_of_the_reference() -> None:
    module = fused_rnn.FusedGRU(20, 33, backend="reference")
    x = torch.randn(2, 5, 20)
    truth = module.double()(x.double())[0].detach()
    module.float()
    torch.set_float32_matmul_precision("medium")
    plain = module(x)[0].detach()
    found = torch.compile(module, fullgraph=True)(x)[0].detach()
    assert errors(found, truth).rms > errors(plain, truth).rms / 2
    assert_within_budget(found, truth, plain)


@reduced
def test_transforms_inside_a_graph(precision: str) -> None:
    torch.set_float32_matmul_precision(precision)
    case = Case("gru", 3, 3, 4, 5, "fp32", reverse=(0, 1))
    inputs = make(case)

    def results(backend: str, dtype: torch.dtype) -> list[Tensor]:
        x, *others = tensors(inputs.to(dtype))
        outputs = layer(case, backend)

        def transforms(x: Tensor) -> list[Tensor]:
            def total(x: Tensor) -> Tensor:
                return outputs(x, *others)[0].sin().sum()

            def y(x: Tensor) -> Tensor:
                return outputs(x, *others)[0]

            return [grad(total)(x), *jvp(y, (x,), (x / 3,)), vmap(y)(torch.stack([x, 2 * x]))]

        if backend == "reference":
            return transforms(x)
        return list(torch.compile(transforms, backend="aot_eager", fullgraph=True)(x))

    same(case, results)


@splitting
@pytest.mark.parametrize("strict", [True, False], ids=["strict", "nonstrict"])
def test_an_exported_program_keeps_the_setting(instruction_set: str, strict: bool) -> None:
    module = fused_rnn.FusedGRU(20, 33)
    x = torch.randn(3, 5, 20)
    torch.set_float32_matmul_precision("medium")
    program = torch.export.export(module, (x,), strict=strict).module()
    expected = module(x)[0]
    torch.set_float32_matmul_precision("highest")
    assert torch.equal(program(x)[0], expected)
    assert not torch.equal(module(x)[0], expected)


def test_modules_cells_and_functions_need_no_option() -> None:
    x, states = torch.randn(4, 6, 8), torch.zeros(6, 9)
    cell, module = fused_rnn.FusedGRUCell(8, 9), fused_rnn.FusedGRU(8, 9)
    weights = dict(module.named_parameters())
    calls: list[Callable[[], Any]] = [
        lambda: cell(x[0], states),
        lambda: functional_call(module, weights, (x,))[0],
        lambda: fused_rnn.functional.gru(x, None, list(module.parameters()))[0],
    ]
    contexts: list[AbstractContextManager[Any]] = [nullcontext(), torch.no_grad()]
    with fused_rnn.use_backend("reference"):
        for call in calls:
            for context in contexts:
                with context:
                    torch.set_float32_matmul_precision("highest")
                    plain = call()
                    torch.set_float32_matmul_precision("medium")
                    assert not torch.equal(call(), plain)
