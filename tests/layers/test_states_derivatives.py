# SPDX-License-Identifier: MIT
"""Derivatives of the states after every step: of every order, under transforms, of fake tensors."""

import copy

import pytest
import torch
from stepwise import INPUTS, LENGTHS, B, Given, H, T, flat, form
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.autograd import forward_ad

import fused_rnn
from fused_rnn.testing import assert_within_budget


def test_outputs_may_be_written_to() -> None:
    given = Given("lstm", num_layers=2)
    for tensor in given.tensors():
        tensor.requires_grad_()

    def gradients(*, write: bool) -> list[Tensor]:
        outputs = given.call(LENGTHS)
        torch.manual_seed(1)
        if write:
            for output in outputs:
                output.mul_(2)
        loss = sum((o * torch.randn_like(o)).sum() for o in outputs)
        return list(torch.autograd.grad(loss / (2 if write else 1), given.tensors()))  # type: ignore[arg-type]

    for own, expected in zip(gradients(write=True), gradients(write=False), strict=True):
        assert_within_budget(own, expected.double(), expected)


@pytest.mark.parametrize("kind", ["gru", "projected"])
def test_second_derivatives(kind: str) -> None:
    given = Given(kind, torch.float64)
    for state in given.at_marks:
        state.nan_to_num_()
    inputs = tuple(t.requires_grad_() for t in (given.x, *given.states, *given.at_marks))
    count = len(given.states)

    def call(x: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        given.x, given.states, given.at_marks = x, list(states[:count]), list(states[count:])
        return tuple(given.call(LENGTHS))

    # Entry by entry they take minutes.
    assert torch.autograd.gradcheck(call, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(call, inputs, fast_mode=True)


def test_gradients_of_many_cotangents_at_once() -> None:
    given = Given("lstm", num_layers=2, bidirectional=True)
    tensors = given.tensors()
    for tensor in tensors:
        tensor.requires_grad_()
    outputs = given.call(LENGTHS)
    cotangents = [torch.randn(3, *o.shape) for o in outputs]
    batched = torch.autograd.grad(
        outputs, tensors, cotangents, retain_graph=True, is_grads_batched=True
    )
    for at in range(3):
        one = [c[at] for c in cotangents]
        for own, other in zip(
            batched, torch.autograd.grad(outputs, tensors, one, retain_graph=True), strict=True
        ):
            assert_within_budget(own[at], other.double(), other)


def c_of_every_step() -> tuple[Tensor, Tensor, Tensor]:
    """c of every step of an LSTM, by x alone: x, c and three cotangents of it."""
    layer = fused_rnn.FusedLSTM(INPUTS, H, dtype=torch.float64)
    x = torch.randn(T, B, INPUTS, dtype=torch.float64, requires_grad=True)
    _, _, (_, c) = layer(x, return_states=True)
    return x, c, torch.randn(3, *c.shape, dtype=torch.float64)


def test_gradients_under_a_transform() -> None:
    x, c, cotangents = c_of_every_step()

    def gradient(cotangent: Tensor) -> Tensor:
        return torch.autograd.grad(c, x, cotangent, retain_graph=True)[0]

    expected = torch.stack([gradient(one) for one in cotangents])
    (batched,) = torch.autograd.grad(c, x, cotangents, retain_graph=True, is_grads_batched=True)
    for found in (batched, torch.func.vmap(gradient)(cotangents)):
        assert_within_budget(found, expected, expected)
    with forward_ad.dual_level():
        dual = gradient(forward_ad.make_dual(cotangents[0], cotangents[1]))
        primal, tangent = forward_ad.unpack_dual(dual)
        assert_within_budget(primal, expected[0], expected[0])
        assert_within_budget(tangent, expected[1], expected[1])


def test_without_numbers() -> None:
    layer = fused_rnn.FusedLSTM(INPUTS, H)
    with FakeTensorMode(allow_non_fake_inputs=True):
        x = torch.randn(T, B, INPUTS, requires_grad=True)
        _, _, (_, c) = layer(x, return_states=True)
        (dx,) = torch.autograd.grad(c.sum(), x)
    assert c.shape == (T, 1, B, H) and dx.shape == x.shape


def test_torch_func() -> None:
    given = Given("lstm")

    def loss(parameters: dict[str, Tensor]) -> Tensor:
        options = {"resets": given.marks, "reset_states": form(given.at_marks)}
        found = torch.func.functional_call(
            given.layer, parameters, (given.x,), {**options, "return_states": True}
        )
        return torch.stack([t.sum() for t in flat(found)]).sum()

    parameters = dict(given.layer.named_parameters())
    grads = torch.func.grad(loss)(parameters)
    expected = torch.autograd.grad(loss(parameters), list(parameters.values()))
    for own, other in zip(grads.values(), expected, strict=True):
        assert_within_budget(own, other.double(), other)


def test_an_ensemble() -> None:
    """Weights of each member, over the same pieces."""
    given = Given("lstm", num_layers=2)
    members = [given.layer, copy.deepcopy(given.layer)]
    with torch.no_grad():
        for parameter in members[1].parameters():
            parameter.mul_(-0.5)
    parameters, _ = torch.func.stack_module_state(members)

    def call(own: dict[str, Tensor]) -> tuple[Tensor, ...]:
        options = {"resets": given.marks, "reset_states": form(given.at_marks)}
        return tuple(
            flat(
                torch.func.functional_call(
                    given.layer, own, (given.x,), {**options, "return_states": True}
                )
            )
        )

    found = torch.func.vmap(call)(parameters)
    for index, member in enumerate(members):
        for own, other in zip(found, call(dict(member.named_parameters())), strict=True):
            assert_within_budget(own[index], other.double(), other)
