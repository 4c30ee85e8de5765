# SPDX-License-Identifier: MIT
"""States given to pieces that begin at marks, and the states after every step."""

import copy
from typing import Any

import pytest
import torch
from cases import INSTRUCTION_SETS
from stepwise import FORMS, INPUTS, KINDS, LENGTHS, B, Given, H, T, flat, form, judge
from torch import Tensor
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import fused_rnn
from fused_rnn.testing import assert_within_budget


@pytest.mark.parametrize("backend", ["native", "torch", "reference"])
@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["whole", "ragged"])
@pytest.mark.parametrize("shape", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_as_one_row_and_step_at_a_time(kind: str, shape: str, lengths: Any, backend: str) -> None:
    if backend == "torch" and (kind == "textbook" or shape == "reverse"):
        pytest.skip("torch.nn has no such layer")
    given = Given(kind, backend=backend, **FORMS[shape])
    for tensor in given.tensors():
        tensor.requires_grad_()
    judge(given, given.call(lengths), lengths, torch.float32)


@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS, indirect=True)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_each_instruction_set(instruction_set: str, dtype: torch.dtype) -> None:
    given = Given("projected", dtype, num_layers=2, bidirectional=True)
    for tensor in given.tensors():
        tensor.requires_grad_()
    judge(given, given.call(LENGTHS), LENGTHS, torch.float32)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize("kind", ["gru", "projected"])
def test_other_types(kind: str, dtype: torch.dtype) -> None:
    given = Given(kind, dtype, num_layers=2)
    for tensor in given.tensors():
        tensor.requires_grad_()
    judge(given, given.call(LENGTHS), LENGTHS, torch.promote_types(dtype, torch.float32))


@pytest.mark.parametrize("kind", KINDS)
def test_without_states_pieces_begin_at_zero(kind: str) -> None:
    given = Given(kind, num_layers=2)
    y, *last = flat(given.layer(given.x, form(given.states), lengths=LENGTHS, resets=given.marks))
    found = given.call(LENGTHS, reset_states=None)
    count = 1 + len(last)
    for own, expected in zip(found, (y, *last), strict=False):
        truth = expected.double()
        assert_within_budget(own, truth, expected)
    zeros = [torch.zeros_like(s) for s in given.at_marks]
    for own, expected in zip(given.call(LENGTHS, reset_states=form(zeros)), found, strict=True):
        assert torch.equal(own, expected)
    # After the last step of a row, the states that are returned are those it ends in.
    for end, every in zip(found[1:count], found[count:], strict=True):
        for b, length in enumerate(LENGTHS):
            if length:
                assert_within_budget(every[length - 1, :, b], end[:, b].double(), end[:, b])
            assert not every[length:, :, b].any()


def test_states_alone() -> None:
    given = Given("lstm")
    y, _, (h, c) = given.layer(given.x, return_states=True)
    assert torch.equal(h.squeeze(1), y)
    expected, (hn, cn) = given.layer(given.x)
    assert_within_budget(y, expected.double(), expected)
    assert_within_budget(c[-1], cn.double(), cn)
    assert len(given.layer(given.x, resets=given.marks, reset_states=form(given.at_marks))) == 2


STEPS = [max(length, 1) for length in LENGTHS]


@pytest.mark.parametrize("kind", ["gru", "lstm"])
def test_batch_first(kind: str) -> None:
    given = Given(kind, num_layers=2, bidirectional=True)
    expected = given.call(STEPS)
    given.layer.batch_first = True
    given.x, given.marks = given.x.transpose(0, 1), given.marks.T
    y, *states = given.call(STEPS)
    for own, other in zip((y.transpose(0, 1), *states), expected, strict=True):
        assert torch.equal(own, other)


@pytest.mark.parametrize("kind", ["gru", "lstm"])
def test_packed(kind: str) -> None:
    given = Given(kind, num_layers=2, bidirectional=True)
    expected = given.call(STEPS)
    count = len(given.sizes)

    def packed(grid: Tensor) -> Any:
        return pack_padded_sequence(grid, torch.tensor(STEPS), enforce_sorted=False)

    y, last, every = given.layer(
        packed(given.x),
        form(given.states),
        resets=packed(given.marks).data,
        reset_states=form([packed(s.transpose(1, 2)).data for s in given.at_marks]),
        return_states=True,
    )
    assert torch.equal(pad_packed_sequence(y, total_length=T)[0], expected[0])
    for own, other in zip(flat((last,)), expected[1 : 1 + count], strict=True):
        assert torch.equal(own, other)
    for own, other in zip(flat((every,)), expected[1 + count :], strict=True):
        padded = pad_packed_sequence(y._replace(data=own), total_length=T)[0]
        assert torch.equal(padded.transpose(1, 2), other)


@pytest.mark.parametrize("kind", ["gru", "lstm"])
def test_unbatched(kind: str) -> None:
    given = Given(kind, num_layers=2, bidirectional=True)
    expected = given.call(STEPS)
    count, row = len(given.sizes), 2
    one = given.layer(
        given.x[:, row],
        form([s[:, row] for s in given.states]),
        lengths=STEPS[row],
        resets=given.marks[:, row],
        reset_states=form([s[:, :, row] for s in given.at_marks]),
        return_states=True,
    )
    axes = [1] * (1 + count) + [2] * count
    for own, other, axis in zip(flat(one), expected, axes, strict=True):
        alone = other.select(axis, row)
        assert_within_budget(own, alone.double(), alone)


def test_no_steps_and_no_rows() -> None:
    given = Given("lstm")
    y, *states = given.call([0] * B)
    assert not y.any() and not states[2].any() and not states[3].any()
    assert torch.equal(states[0], given.states[0]) and torch.equal(states[1], given.states[1])
    y, (h, c), (hs, cs) = given.layer(given.x[:, :0], return_states=True)
    assert y.shape == (T, 0, H) and h.shape == c.shape == (1, 0, H)
    assert hs.shape == cs.shape == (T, 1, 0, H)


def test_dropout_between_layers() -> None:
    """The numbers that a call without marks draws; cell states follow from what was dropped."""
    given = Given("lstm", num_layers=2, dropout=0.5)
    torch.manual_seed(3)
    expected, (_, cn) = given.layer(given.x)
    torch.manual_seed(3)
    y, _, (_, c) = given.layer(given.x, return_states=True)
    assert_within_budget(y, expected.double(), expected)
    assert_within_budget(c[-1], cn.double(), cn)
    given.layer.eval()
    assert not torch.allclose(given.layer(given.x)[0], expected)


def test_another_default_device() -> None:
    given = Given("lstm", num_layers=2, bidirectional=True)
    expected = given.call(LENGTHS)
    torch.set_default_device("meta")
    try:
        found = given.call(LENGTHS)
    finally:
        torch.set_default_device(None)
    for own, other in zip(found, expected, strict=True):
        assert torch.equal(own, other)


def test_between_two_graphs() -> None:
    given = Given("lstm", num_layers=2)
    expected = given.call(LENGTHS)
    compiled = torch.compile(given.layer, backend="aot_eager")
    for own, other in zip(given.call(LENGTHS, layer=compiled), expected, strict=True):
        assert torch.equal(own, other)
    torch._dynamo.reset()
    whole = torch.compile(given.layer, backend="aot_eager", fullgraph=True)
    with pytest.raises(Exception, match="_run_pieces"):
        given.call(LENGTHS, layer=whole)


def test_prepacked_and_quantized() -> None:
    given = Given("lstm", num_layers=2, bidirectional=True)
    given.layer.eval()
    with torch.no_grad():
        expected = given.call(LENGTHS)
        with fused_rnn.prepacked(given.layer):
            packed = given.call(LENGTHS)
        for own, other in zip(packed, expected, strict=True):
            assert torch.equal(own, other)
        small = fused_rnn.quantize(copy.deepcopy(given.layer), "float16")
        with pytest.raises(RuntimeError, match="return_states: expected float weights.*float16"):
            given.call(LENGTHS, layer=small)
        own, *_ = given.call(LENGTHS, layer=small, return_states=False)
        again = small.dequantize()
        other, *_ = given.call(LENGTHS, layer=again, return_states=False)
        given.layer = again
        assert_within_budget(own, given.stepwise(torch.float64, LENGTHS).found[0], other)
        gru = Given("gru")
        assert len(gru.call(layer=fused_rnn.quantize(copy.deepcopy(gru.layer).eval()))) == 3


def test_autocast() -> None:
    given = Given("lstm", num_layers=2)
    with torch.autocast("cpu", torch.bfloat16):
        found = given.call(LENGTHS)
    half = Given("lstm", torch.bfloat16, num_layers=2)
    half.layer.load_state_dict(given.layer.state_dict())
    for name in ("states", "at_marks"):
        setattr(half, name, [s.to(torch.bfloat16) for s in getattr(given, name)])
    half.x, half.marks = given.x.to(torch.bfloat16), given.marks
    for own, other in zip(found, half.call(LENGTHS), strict=True):
        assert own.dtype == torch.bfloat16 and torch.equal(own, other)


def test_bad_arguments() -> None:
    given = Given("lstm")
    layer, x, marks, (h, c) = given.layer, given.x, given.marks, given.at_marks
    with pytest.raises(ValueError, match="resets: expected marks beside reset_states, got None"):
        layer(x, reset_states=(h, c))
    with pytest.raises(RuntimeError, match="lstm expects two hidden states"):
        layer(x, resets=marks, reset_states=(h,))
    with pytest.raises(ValueError, match=r"reset_states\[1\]: expected shape \(7, 1, 5, 6\), got"):
        layer(x, resets=marks, reset_states=(h, c[:, :, 1:]))
    with pytest.raises(ValueError, match="expected dtype torch.float32, got torch.float64"):
        layer(x, resets=marks, reset_states=(h.double(), c))
    with pytest.raises(TypeError, match=r"reset_states\[0\]: expected a tensor, got list"):
        layer(x, resets=marks, reset_states=([], c))
    gru = Given("gru")
    with pytest.raises(
        ValueError, match=r"reset_states: expected shape \(7, 1, 5, 6\), got \(5, 6\)"
    ):
        gru.layer(x, resets=marks, reset_states=torch.zeros(5, 6))


def test_no_gradients_of_rows() -> None:
    from torch.nn.utils._per_sample_grad import call_for_per_sample_grads

    layer = fused_rnn.FusedGRU(INPUTS, H, batch_first=True)
    call = call_for_per_sample_grads(layer, batch_size=2)
    with pytest.raises(RuntimeError, match="expected no gradients for each row of the batch"):
        call(torch.randn(2, T, INPUTS), return_states=True)


def test_no_objects_that_only_act_as_tensors() -> None:
    class Acting:
        def __torch_function__(self, *_: Any) -> Any:
            raise AssertionError("asked")

        def dim(self) -> int:
            return 3

        def size(self, axis: int) -> int:
            return (T, B, INPUTS)[axis]

    layer = fused_rnn.FusedGRU(INPUTS, H)
    with pytest.raises(TypeError, match="return_states: expected tensors alone.*got Acting"):
        layer(Acting(), return_states=True)
