# SPDX-License-Identifier: MIT
"""torchrl's recurrent modules on fused layers, beside its own."""

import pickle
from typing import Any

import pytest
import torch
from interop_rule import check
from torch import Tensor

import fused_rnn
from fused_rnn import rl

pytestmark = pytest.mark.interop
torchrl = pytest.importorskip("torchrl.modules", reason="needs the extra `interop`")
tensordict = pytest.importorskip("tensordict", reason="needs the extra `interop`")

INPUTS, HIDDEN, STEPS = 4, 6, 9
NAMES = ["LSTMModule", "GRUModule"]


def modules(name: str, **options: Any) -> tuple[Any, Any]:
    """torchrl's module and the fused one, of the same parameters."""
    options = {"input_size": INPUTS, "hidden_size": HIDDEN, **options}
    made = []
    for home in (torchrl, rl):
        torch.manual_seed(0)
        own = getattr(home, name)(in_key="observation", out_key="features", **options)
        made.append(own)
    return made[0], made[1]


def batch(module: Any, shape: tuple[int, ...], *, starts: str, states: bool = True) -> Any:
    torch.manual_seed(1)
    marks = torch.zeros(*shape, 1, dtype=torch.bool)
    if starts != "none":
        marks[..., 0, :] = True
    if starts == "inside":
        marks |= torch.rand(*shape, 1) < 0.3
    data = {"observation": torch.randn(*shape, INPUTS), "is_init": marks}
    if states:
        layer = getattr(module, "lstm", None) or module.gru
        count = layer.num_layers * (2 if layer.bidirectional else 1)
        sizes = [getattr(layer, "proj_size", 0) or HIDDEN, HIDDEN]
        for key, size in zip(module.in_keys[1:-1], sizes, strict=False):
            data[key] = torch.randn(*shape, count, size)
    return tensordict.TensorDict(data, list(shape))


def results(module: Any, data: Any) -> list[Tensor]:
    found = module(data.clone())
    assert found.shape == data.shape
    return [found[key] for key in module.out_keys]


def compare(theirs: Any, ours: Any, data: Any) -> None:
    """Outputs, next states, and the gradients of all parameters."""
    expected, found = results(theirs, data), results(ours, data)
    for own, other in zip(found, expected, strict=True):
        check(own, other)
    grads = []
    for module, outputs in ((theirs, expected), (ours, found)):
        torch.manual_seed(2)
        loss = sum((output * torch.randn(output.shape)).sum() for output in outputs)
        grads.append(torch.autograd.grad(loss, list(module.parameters())))  # type: ignore[arg-type]
    for own, other in zip(grads[1], grads[0], strict=True):
        largest = other.abs().max().item() or 1.0
        check(own / largest, other / largest)


@pytest.mark.parametrize("starts", ["none", "first", "inside"])
@pytest.mark.parametrize(
    "options",
    [{}, {"num_layers": 2, "bias": False}, {"bidirectional": True, "num_layers": 2}],
    ids=["one", "two", "both ways"],
)
@pytest.mark.parametrize("name", NAMES)
def test_batches_of_trajectories(name: str, options: Any, starts: str) -> None:
    theirs, ours = modules(name, **options)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    with torchrl.set_recurrent_mode(True):
        for shape in ((3, STEPS), (STEPS,), (2, 3, STEPS), (3, 1)):
            compare(theirs, ours, batch(theirs, shape, starts=starts))
        compare(theirs, ours, batch(theirs, (3, STEPS), starts=starts, states=False))


def test_a_projection() -> None:
    theirs, ours = modules("LSTMModule", proj_size=3)
    with torchrl.set_recurrent_mode(True):
        compare(theirs, ours, batch(theirs, (3, STEPS), starts="inside"))


@pytest.mark.parametrize("name", NAMES)
def test_single_steps(name: str) -> None:
    theirs, ours = modules(name, num_layers=2)
    for shape in ((), (3,), (2, 3)):
        data = batch(theirs, (*shape, 1), starts="inside").squeeze(-1)
        compare(theirs, ours, data)
        data["is_init"] = torch.ones_like(data["is_init"])
        compare(theirs, ours, data)


@pytest.mark.parametrize("name", NAMES)
def test_one_call(name: str) -> None:
    _, ours = modules(name)
    layer = getattr(ours, "lstm", None) or ours.gru
    assert type(layer) in (fused_rnn.FusedLSTM, fused_rnn.FusedGRU)
    calls: list[int] = []
    run = type(layer)._run_layers

    def counted(self: Any, given: Any, weights: Any) -> Any:
        calls.append(given.batch)
        return run(self, given, weights)

    data = batch(ours, (3, STEPS), starts="inside")
    marks = data["is_init"]
    with pytest.MonkeyPatch.context() as patch, torchrl.set_recurrent_mode(True):
        patch.setattr(type(layer), "_run_layers", counted)
        ours(data)
    assert calls == [int(marks.sum())]


@pytest.mark.parametrize("name", NAMES)
def test_a_layer_of_ones_own_and_their_other_backends(name: str) -> None:
    key = "lstm" if name == "LSTMModule" else "gru"
    own = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU}[key](INPUTS, HIDDEN, batch_first=True)
    options = {"in_key": "observation", "out_key": "features", key: own}
    weights = list(own.parameters())
    ours = getattr(rl, name)(**options)
    assert all(a is b for a, b in zip(ours.parameters(), weights, strict=True))
    theirs = getattr(torchrl, name)(**options)
    data = batch(theirs, (3, STEPS), starts="inside")
    with torchrl.set_recurrent_mode(True):
        compare(theirs, ours, data)
        theirs = getattr(rl, name)(
            INPUTS, HIDDEN, in_key="observation", out_key="features", python_based=True
        )
        (theirs.lstm if key == "lstm" else theirs.gru).load_state_dict(own.state_dict())
        for one, other in zip(results(theirs, data), results(ours, data), strict=True):
            check(one, other)


@pytest.mark.parametrize("name", NAMES)
def test_kept_and_copied(name: str) -> None:
    theirs, ours = modules(name)
    again = pickle.loads(pickle.dumps(ours))
    assert type(again) is getattr(rl, name)
    assert again.make_tensordict_primer() is not None
    data = batch(theirs, (3, STEPS), starts="inside")
    with torchrl.set_recurrent_mode(True):
        for one, other in zip(results(again, data), results(ours, data), strict=True):
            assert torch.equal(one, other)
        data.del_(theirs.in_keys[1])
        if name == "LSTMModule":
            with pytest.raises(RuntimeError, match="expected all of them or none"):
                ours(data)
        with pytest.raises(ValueError, match="at least one batch dim"):
            ours(data[0, 0])
