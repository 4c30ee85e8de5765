# SPDX-License-Identifier: MIT
"""PyTorch's own cases of its recurrent modules, from the installed torch.testing, on fused ones.

They bring constructors, arguments, references and errors; fused modules pass all of them. The
checks that PyTorch makes of every module are not installed: what they ask is asked here in other
words, and its test of overrides in test_torch_function.py. Not asked are test_check_inplace and
test_memory_format, as no recurrent module works in place or has four axes, and what needs a second
device: test_cpu_gpu_parity, test_multiple_device_transfer.
"""

import copy
import io
import pickle
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck
from torch.func import functional_call
from torch.nn.utils._per_sample_grad import call_for_per_sample_grads
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence
from torch.testing._internal.common_modules import ModuleErrorEnum, module_db
from torch.testing._internal.common_utils import freeze_rng_state, noncontiguous_like
from torch.utils._pytree import tree_map_only
from twins import ALL, DOUBLE, LAYERS, assert_same, tensors

from fused_rnn.testing import assert_within_budget

pytestmark = pytest.mark.long

# Importing torch.testing's own modules takes the flags of torch.backends from everybody else.
torch.backends.flags_frozen.__globals__["__allow_nonbracketed_mutation_flag"] = True

INFOS = {info.module_cls: info for info in module_db}
FLOATS = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
KINDS = pytest.mark.parametrize("kind", ALL)
MODES = pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])


class Sample(NamedTuple):
    """A fused module, what it was made of, what it is called with, and PyTorch's reference."""

    module: Any
    made: Any
    args: tuple[Any, ...]
    keywords: dict[str, Any]
    reference: Any

    def call(self) -> list[Tensor]:
        return tensors(self.module(*self.args, **self.keywords))


def samples(
    kind: str, dtype: torch.dtype = DOUBLE, training: bool = True, grad: bool = False, **extra: Any
) -> Iterator[Sample]:
    """PyTorch's cases of a kind."""
    info = INFOS[ALL[kind][1]]
    options = {"device": "cpu", "dtype": dtype, "requires_grad": grad, "training": training}
    for one in info.module_inputs_func(info, **options, **extra):
        made, given = one.constructor_input, one.forward_input
        module = ALL[kind][0](*made.args, **made.kwargs).to(dtype).train(training)
        yield Sample(module, made, given.args, given.kwargs, one.reference_fn)


def doubled(args: Any) -> Any:
    return tree_map_only(Tensor, lambda t: t.detach().double(), args)


@MODES
@FLOATS
@KINDS
def test_forward(kind: str, dtype: torch.dtype, training: bool) -> None:
    for sample in samples(kind, dtype, training):
        twin = ALL[kind][1](*sample.made.args, **sample.made.kwargs).double().train(training)
        twin.load_state_dict(sample.module.state_dict())
        truth = tensors(twin(*doubled(sample.args), **sample.keywords))
        found = sample.call()
        expected = tensors(sample.reference(sample.module, *sample.args, **sample.keywords))
        sample.module.backend = "reference"
        for mine, theirs, *judges in zip(found, expected, truth, sample.call(), strict=True):
            assert mine.dtype == theirs.dtype == dtype
            assert_within_budget(mine, *judges, name="output")
            assert_within_budget(theirs, *judges, name="PyTorch's reference")


@FLOATS
@KINDS
def test_factory_keywords(kind: str, dtype: torch.dtype) -> None:
    for sample in samples(kind, dtype):
        for device in ("cpu", "meta"):
            keywords = sample.made.kwargs | {"device": device, "dtype": dtype}
            module = ALL[kind][0](*sample.made.args, **keywords)
            for weight in module.parameters():
                assert (weight.device.type, weight.dtype) == (device, dtype)


@MODES
@KINDS
def test_copies(kind: str, training: bool) -> None:
    for sample in samples(kind, training=training):
        with freeze_rng_state():
            expected = sample.call()
        file = io.BytesIO()
        torch.save(sample.module, file)
        file.seek(0)
        for module in (
            copy.deepcopy(sample.module),
            pickle.loads(pickle.dumps(sample.module)),
            torch.load(file, weights_only=False),
        ):
            assert module.training == training and repr(module) == repr(sample.module)
            with freeze_rng_state():
                assert_same(sample._replace(module=module).call(), expected)


@KINDS
def test_state_dict_and_repr(kind: str) -> None:
    for sample in samples(kind):
        twin = ALL[kind][1](*sample.made.args, **sample.made.kwargs).double()
        assert repr(sample.module) == repr(twin).replace(kind, f"Fused{kind}", 1)
        twin.load_state_dict(sample.module.state_dict(), strict=True)
        sample.module.load_state_dict(twin.state_dict(), strict=True)
        assert str(sample.module.state_dict()) == str(twin.state_dict())


@MODES
@KINDS
def test_contiguous_or_not(kind: str, training: bool) -> None:
    """Arguments and weights, alone and together: the same results and gradients."""
    for sample in samples(kind, training=training, grad=True):
        expected = gradients(sample, sample.args, dict(sample.module.named_parameters()))
        args = tree_map_only(Tensor, noncontiguous_like, sample.args)
        names = dict(sample.module.named_parameters())
        weights = {name: noncontiguous_like(weight) for name, weight in names.items()}
        for some, own in ((args, names), (sample.args, weights), (args, weights)):
            assert_same(gradients(sample, some, own), expected)


def gradients(sample: Sample, args: Any, weights: dict[str, Tensor]) -> list[Tensor]:
    """The results, and what a loss of all of them has as gradients of all leaves."""
    with freeze_rng_state():
        found = tensors(functional_call(sample.module, weights, args, sample.keywords))
    leaves = [*tensors(args), *weights.values()]
    return found + list(torch.autograd.grad([t.sin().sum() for t in found], leaves))


@KINDS
def test_gradients(kind: str) -> None:
    """First and second ones, of arguments and weights."""
    for sample in samples(kind, grad=True):
        names = [name for name, _ in sample.module.named_parameters()]

        def call(*leaves: Tensor, sample: Sample = sample, names: Any = names) -> Any:
            given = iter(leaves)
            args = tree_map_only(Tensor, lambda _: next(given), sample.args)
            weights = dict(zip(names, given, strict=True))
            return tuple(tensors(functional_call(sample.module, weights, args)))

        weights = [p.detach().requires_grad_() for p in sample.module.parameters()]
        leaves = (*tensors(sample.args), *weights)
        assert gradcheck(call, leaves, check_batched_grad=True, fast_mode=True)
        assert gradgradcheck(call, leaves, fast_mode=True)


@KINDS
def test_modes_differ_as_said(kind: str) -> None:
    info = INFOS[ALL[kind][1]]
    for sample in samples(kind, training=True):
        assert info.train_and_eval_differ == isinstance(sample.module, nn.RNNBase)
        assert not sample.module.eval().training


@FLOATS
@KINDS
def test_conversions(kind: str, dtype: torch.dtype) -> None:
    """Parameters stay what they are, or are swapped, when they move to another type or place."""
    for sample in samples(kind, dtype):
        module = sample.module
        before = list(map(id, module.parameters()))
        for other in (torch.bfloat16, torch.float64, dtype):
            module.to(other)
            assert {p.dtype for p in module.parameters()} == {other}
        assert list(map(id, module.parameters())) == before
        module.to("meta").to_empty(device="cpu").reset_parameters()
        assert all(torch.isfinite(t).all() for t in sample.call())


@FLOATS
@KINDS
def test_errors(kind: str, dtype: torch.dtype) -> None:
    info = INFOS[ALL[kind][1]]
    options = {"device": "cpu", "dtype": dtype, "requires_grad": False, "training": True}
    for case in info.module_error_inputs_func(info, **options):
        made, given = (
            case.module_error_input.constructor_input,
            case.module_error_input.forward_input,
        )
        if case.error_on == ModuleErrorEnum.CONSTRUCTION_ERROR:
            with pytest.raises(case.error_type, match=case.error_regex):
                ALL[kind][0](*made.args, **made.kwargs)
            continue
        module = ALL[kind][0](*made.args, **made.kwargs)
        with pytest.raises(case.error_type, match=case.error_regex):
            module(*given.args, **given.kwargs)


@pytest.mark.parametrize("kind", LAYERS)
def test_expanded_weights(kind: str) -> None:
    """Two rows of each sample, and packed ones."""
    for sample in samples(kind, grad=True, with_packed_sequence=True):
        module, (x, *hx) = sample.module, sample.args
        axis = 0 if module.batch_first else 1
        if isinstance(x, PackedSequence):
            padded, lengths = pad_packed_sequence(x, batch_first=True)
            rows = [(row[:n].unsqueeze(axis),) for row, n in zip(padded, lengths, strict=True)]
        else:
            row = (x.unsqueeze(axis), *tree_map_only(Tensor, lambda t: t.unsqueeze(1), hx))
            x, rows = torch.cat([row[0]] * 2, axis), [row] * 2
            hx = tree_map_only(Tensor, lambda t: torch.cat([t] * 2, 1), list(row[1:]))
        weights = list(module.parameters())
        alone = [torch.autograd.grad(module(*row)[0].sum(), weights) for row in rows]
        call = call_for_per_sample_grads(module, batch_size=len(rows), batch_first=axis == 0)
        tensors(call(x, *hx))[0].sum().backward()
        for weight, grads in zip(weights, zip(*alone, strict=True), strict=True):
            assert_same(weight.grad_sample, torch.stack(grads))
