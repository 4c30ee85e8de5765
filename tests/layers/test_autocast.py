# SPDX-License-Identifier: MIT
"""Autocast on the CPU: one dtype out of every layer and cell, whatever went in."""

from typing import Any

import pytest
import torch
from cases import need
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence
from twins import ALL, CELLS, assert_same, outcome, state, tensors, twins

from fused_rnn import functional

DTYPES = [torch.bfloat16, torch.float16]


def inputs(kind: str, dtype: torch.dtype = torch.float32) -> list[tuple[Any, ...]]:
    """Calls of every form: padded, unbatched, packed, with and without a state."""
    if kind in CELLS:
        x = torch.randn(2, 3, dtype=dtype)
        return [(x,), (x[0],), (x, state(kind, 2, 5, dtype=dtype))]
    x = torch.randn(4, 2, 3, dtype=dtype)
    hx = state(kind, 4, 2, 5, dtype=dtype)
    packed = pack_padded_sequence(x, [4, 2])
    return [(x,), (x[:, 0],), (x, hx), (packed,), (packed, hx)]


def module_for(kind: str, **options: Any) -> Any:
    extra = {} if kind in CELLS else dict(num_layers=2, bidirectional=True)
    return twins(kind, 3, 5, **extra, **options)[0]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", ALL)
def test_results_have_its_dtype(kind: str, dtype: torch.dtype) -> None:
    # torch.nn gives float32 for the GRU and two cells, and its LSTM crashes in float16.
    module = module_for(kind, dtype=torch.float32)
    lowered = module_for(kind, dtype=dtype)
    lowered.load_state_dict(module.state_dict())
    for args in inputs(kind):
        with torch.autocast("cpu", dtype):
            found = module(*args)
        assert all(t.dtype == dtype for t in tensors(found) if t.is_floating_point())
        expected = lowered(*_to(args, dtype))
        for mine, plain in zip(tensors(found), tensors(expected), strict=True):
            assert torch.equal(mine, plain)


def _to(value: Any, dtype: torch.dtype) -> Any:
    if isinstance(value, tuple) and not isinstance(value, PackedSequence):
        return tuple(_to(part, dtype) for part in value)
    return value.to(dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", ALL)
def test_gradients_keep_the_dtype_of_their_tensors(kind: str, dtype: torch.dtype) -> None:
    module = module_for(kind, dtype=torch.float32)
    for args in inputs(kind):
        args[0].data.requires_grad_() if kind in CELLS else None
        with torch.autocast("cpu", dtype):
            found = [t for t in tensors(module(*args)) if t.is_floating_point()]
            loss = sum(t.float().square().sum() for t in found)
        module.zero_grad()
        loss.backward()
        assert all(p.grad.dtype == torch.float32 for p in module.parameters())
        assert all(p.grad.isfinite().all() for p in module.parameters())


@pytest.mark.parametrize("kind", ALL)
def test_backward_inside(kind: str) -> None:
    need("native")  # PyTorch's own gradients are cast again there.
    module = module_for(kind, dtype=torch.float32)
    args = inputs(kind)[0]
    gradients = []
    for inside in (False, True):
        module.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = sum(t.float().sum() for t in tensors(module(*args)))
        with torch.autocast("cpu", torch.bfloat16, enabled=inside):
            loss.backward()
        gradients.append([p.grad.clone() for p in module.parameters()])
    for outside, inside in zip(*gradients, strict=True):
        assert torch.equal(outside, inside)


@pytest.mark.parametrize("kind", ALL)
def test_float64_stays(kind: str) -> None:
    ours, theirs = twins(kind, 3, 5)
    for args in inputs(kind, torch.float64)[:1]:
        with torch.autocast("cpu", torch.bfloat16):
            assert_same(ours(*args), theirs(*args))
        single = ALL[kind][0](3, 5)
        with torch.autocast("cpu", torch.bfloat16), pytest.raises(RuntimeError, match="same dtype"):
            single(*args)


@pytest.mark.parametrize("kind", ALL)
def test_any_mixture_of_types_goes_in(kind: str) -> None:
    module = module_for(kind, dtype=torch.float32)
    half = module_for(kind, dtype=torch.float16)
    half.load_state_dict(module.state_dict())
    for args in inputs(kind):
        with torch.autocast("cpu", torch.bfloat16):
            assert (
                tensors(module(_to(args[0], torch.float16), *args[1:]))[0].dtype == torch.bfloat16
            )
            assert tensors(half(*args))[0].dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", [kind for kind in ALL if kind not in CELLS])
def test_the_functions_follow_it_as_the_modules_do(kind: str, dtype: torch.dtype) -> None:
    module = module_for(kind, dtype=torch.float32)
    weights = list(module.parameters())
    options: dict[str, Any] = {"num_layers": 2, "bidirectional": True}
    function = getattr(functional, kind.partition("_")[0].lower())
    for args in inputs(kind):
        x, hx = (*args, None)[:2]
        if isinstance(x, PackedSequence):
            continue
        with torch.autocast("cpu", dtype):
            found, expected = function(x, hx, weights, **options), module(*args)
            gradients = torch.autograd.grad(found[0].float().sum(), weights)
        for mine, theirs in zip(tensors(found), tensors(expected), strict=True):
            assert mine.dtype == dtype and torch.equal(mine, theirs)
        assert all(g.dtype == torch.float32 and g.isfinite().all() for g in gradients)


@pytest.mark.parametrize("kind", ALL)
def test_off_and_elsewhere(kind: str) -> None:
    module = module_for(kind, dtype=torch.float32)
    args = inputs(kind)[0]
    with torch.autocast("cpu", torch.bfloat16, enabled=False):
        assert tensors(module(*args))[0].dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        meta = module.to("meta")
        assert tensors(meta(args[0].to("meta")))[0].dtype == torch.float32


@pytest.mark.parametrize("kind", ALL)
def test_on_the_reference(kind: str) -> None:
    module = module_for(kind, dtype=torch.float32, **{})
    module.backend = "reference"
    for args in inputs(kind):
        with torch.autocast("cpu", torch.bfloat16):
            found = tensors(module(*args))
        lowered = module_for(kind, dtype=torch.bfloat16)
        lowered.load_state_dict(module.state_dict())
        lowered.backend = "reference"
        for mine, plain in zip(found, tensors(lowered(*_to(args, torch.bfloat16))), strict=True):
            assert torch.equal(mine, plain)


@pytest.mark.parametrize("kind", ALL)
def test_mismatch_under_autocast_is_a_runtime_error(kind: str) -> None:
    ours, theirs = twins(kind, 3, 5, dtype=torch.float32)
    x = inputs(kind, torch.float64)[0][0]
    with torch.autocast("cpu", torch.bfloat16):
        kinds = [outcome(lambda m=m: m(x))[0] for m in (ours, theirs)]
    assert kinds == [RuntimeError, RuntimeError]
