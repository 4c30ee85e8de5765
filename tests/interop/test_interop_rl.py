# SPDX-License-Identifier: MIT
"""sb3-contrib's recurrent policies on fused layers, beside its own."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from interop_rule import check

import fused_rnn
from fused_rnn import rl

pytestmark = pytest.mark.interop
sb3 = pytest.importorskip("sb3_contrib", reason="needs the extra `interop`")
spaces = pytest.importorskip("gymnasium", reason="needs the extra `interop`").spaces

from sb3_contrib.ppo_recurrent import MlpLstmPolicy  # noqa: E402

FEATURES, HIDDEN = 4, 16
SMALL: dict[str, Any] = {"n_steps": 32, "batch_size": 64, "n_epochs": 2, "seed": 0, "device": "cpu"}


def policies(**options: Any) -> tuple[Any, Any]:
    """sb3's policy and the fused one, of the same parameters."""
    box = spaces.Box(-1, 1, (FEATURES,))
    own = []
    for cls in (MlpLstmPolicy, rl.MlpLstmPolicy):
        torch.manual_seed(0)
        made = cls(box, spaces.Discrete(2), lambda _: 1e-3, lstm_hidden_size=HIDDEN, **options)
        own.append(made)
    return own[0], own[1]


@pytest.mark.parametrize("starts", ["none", "first", "inside", "everywhere"])
@pytest.mark.parametrize("layers", [1, 2])
def test_sequences_in_one_call(layers: int, starts: str) -> None:
    theirs, ours = policies(n_lstm_layers=layers)
    assert type(ours.lstm_actor) is fused_rnn.FusedLSTM is type(ours.lstm_critic)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    sequences, steps = 3, 7
    x = torch.randn(sequences * steps, FEATURES)
    states = tuple(torch.randn(layers, sequences, HIDDEN) for _ in range(2))
    marks = torch.zeros(sequences, steps)
    marks[:, 0] = float(starts in ("first", "everywhere"))
    marks[1, 3] = marks[2, 5] = float(starts in ("inside", "everywhere"))
    calls: list[int] = []
    ours.lstm_actor.register_forward_hook(lambda *_: calls.append(1))
    y, last = ours._process_sequence(x, states, marks.flatten(), ours.lstm_actor)
    expected, final = theirs._process_sequence(x, states, marks.flatten(), theirs.lstm_actor)
    assert len(calls) == 1
    check(y, expected)
    for own, other in zip(last, final, strict=True):
        check(own, other)
    own = torch.autograd.grad(y.square().sum(), list(ours.lstm_actor.parameters()))
    others = torch.autograd.grad(expected.square().sum(), list(theirs.lstm_actor.parameters()))
    for one, other in zip(own, others, strict=True):
        check(one / other.abs().max(), other / other.abs().max())


def trained(policy: Any) -> Any:
    options = {"lstm_hidden_size": HIDDEN}
    model = sb3.RecurrentPPO(policy, "CartPole-v1", policy_kwargs=options, **SMALL)
    return model.learn(96)


def test_training_gives_the_same_weights() -> None:
    theirs, ours = trained("MlpLstmPolicy"), trained(rl.MlpLstmPolicy)
    for own, other in zip(ours.policy.parameters(), theirs.policy.parameters(), strict=True):
        check(own, other)


def test_saved_and_loaded_by_sb3(tmp_path: Path) -> None:
    model = trained(rl.MlpLstmPolicy)
    path = tmp_path / "model.zip"
    model.save(path)
    loaded = sb3.RecurrentPPO.load(path, device="cpu")
    assert type(loaded.policy) is rl.MlpLstmPolicy
    assert type(loaded.policy.lstm_actor) is fused_rnn.FusedLSTM
    observation = torch.randn(5, FEATURES).numpy()
    (own, _), (other, _) = (m.predict(observation, deterministic=True) for m in (loaded, model))
    assert own.tolist() == other.tolist()
    # What was saved by sb3's policy serves the fused one.
    theirs = trained("MlpLstmPolicy")
    theirs.save(path)
    again = sb3.RecurrentPPO.load(
        path, device="cpu", custom_objects={"policy_class": rl.MlpLstmPolicy}
    )
    assert type(again.policy) is rl.MlpLstmPolicy
    for own, other in zip(again.policy.parameters(), theirs.policy.parameters(), strict=True):
        assert torch.equal(own, other)


def test_names() -> None:
    assert issubclass(rl.CnnLstmPolicy, rl.FusedRecurrentPolicy)
    assert issubclass(rl.MultiInputLstmPolicy, rl.FusedRecurrentPolicy)
    assert set(dir(rl)) == {
        *("FusedRecurrentPolicy", "MlpLstmPolicy", "CnnLstmPolicy", "MultiInputLstmPolicy"),
        *("LSTMModule", "GRUModule"),
    }
    with pytest.raises(AttributeError, match="has no attribute 'Policy'"):
        _ = rl.Policy


def test_packages_are_imported_when_they_are_asked_for() -> None:
    names = ("sb3_contrib", "torchrl", "tensordict")
    code = f"import sys, fused_rnn.rl; print(any(n in sys.modules for n in {names}))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "False\n"
