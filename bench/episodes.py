# SPDX-License-Identifier: MIT
"""How long recurrent policies take to learn from episodes: `python -m bench.episodes`.

An update of sb3-contrib's RecurrentPPO, the learning alone without the environments, over rollouts
of CartPole: its own LSTM policy beside that of `fused_rnn.rl`. And a pass forward and back of
torchrl's LSTMModule and GRUModule over a batch in which trajectories begin: its own backends beside
`fused_rnn.rl`. All from the same parameters, in turns. Needs the extra `interop`, and `hoptorch`
for torchrl's scan.
"""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from sb3_contrib import RecurrentPPO
from stable_baselines3.common.env_util import make_vec_env
from tensordict import TensorDict
from torchrl import modules as torchrl

from bench import machine
from fused_rnn import rl
from fused_rnn.cli.timing import alternate

RESULTS = machine.ROOT / "bench" / "results" / "episodes.jsonl"
OURS = "fused_rnn.rl"
# torchrl's ways on the CPU, as arguments of its modules.
TORCHRL: dict[str, dict[str, Any]] = {
    "torchrl, pad": {"recurrent_backend": "pad"},
    "torchrl, scan": {"recurrent_backend": "scan"},
    "torchrl, python": {"python_based": True},
}
FEATURES = 64

Tasks = dict[str, Callable[[], object]]


def main(arguments: list[str] | None = None) -> int:
    """Measures, and appends a row for each comparison to the results."""
    parser = argparse.ArgumentParser(prog="python -m bench.episodes", description=__doc__)
    parser.add_argument("--out", type=Path, default=RESULTS, help="file of results")
    parser.add_argument("--threads", type=int, default=1, help="(default 1)")
    parser.add_argument("--seconds", type=float, default=60.0, help="of each (default 60)")
    parser.add_argument("--environments", type=int, default=8, help="(default 8)")
    parser.add_argument("--steps", type=int, default=128, help="of each rollout (default 128)")
    parser.add_argument("--hidden", type=int, default=256, help="units of a layer (default 256)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    comparisons = {
        "an update of RecurrentPPO": _updates(options),
        "LSTMModule, forward and back": _passes("LSTMModule", options),
        "GRUModule, forward and back": _passes("GRUModule", options),
    }
    for what, tasks in comparisons.items():
        times = alternate(list(tasks.values()), seconds=options.seconds, warm_up=1)
        medians = {name: time.median for name, time in zip(tasks, times, strict=True)}
        row = {
            "what": what,
            "seconds": {name: time._asdict() for name, time in zip(tasks, times, strict=True)},
            # Of the fastest other one.
            "ratio": min(m for name, m in medians.items() if name != OURS) / medians[OURS],
            "environments": options.environments,
            "steps": options.steps,
            "hidden": options.hidden,
            "threads": options.threads,
            **machine.record(),
        }
        print(json.dumps({key: row[key] for key in ("what", "seconds", "ratio")}), flush=True)
        with open(options.out, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
    return 0


def _updates(options: argparse.Namespace) -> Tasks:
    """What learns from a buffer that was filled once, by each policy."""
    policies = {OURS: rl.MlpLstmPolicy, "sb3-contrib": "MlpLstmPolicy"}
    return {name: _learner(policy, options).train for name, policy in policies.items()}


def _learner(policy: Any, options: argparse.Namespace) -> Any:
    model = RecurrentPPO(
        policy,
        make_vec_env("CartPole-v1", options.environments, seed=0),
        n_steps=options.steps,
        n_epochs=1,
        policy_kwargs={"lstm_hidden_size": options.hidden},
        seed=0,
        device="cpu",
    )
    return model.learn(options.environments * options.steps)


def _passes(name: str, options: argparse.Namespace) -> Tasks:
    """A pass over one batch by each module; a trajectory takes some twenty steps, as CartPole's."""
    torch.manual_seed(0)
    shape = (options.environments, options.steps)
    ours = _module(rl, name, options)
    layer = getattr(ours, "lstm", None) or ours.gru
    data = TensorDict(
        {
            "observation": torch.randn(*shape, FEATURES),
            "is_init": torch.rand(*shape, 1) < 1 / 20,
            **{key: torch.randn(*shape, 1, options.hidden) for key in ours.in_keys[1:-1]},
        },
        list(shape),
    )

    def task(module: Any) -> Callable[[], object]:
        def run() -> None:
            with torchrl.set_recurrent_mode(True):
                features = module(data.copy())["features"]
            features.square().mean().backward()

        return run

    tasks = {OURS: task(ours)}
    for other, arguments in TORCHRL.items():
        module = _module(torchrl, name, options, **arguments)
        own = getattr(module, "lstm", None) or module.gru
        own.load_state_dict(layer.state_dict())
        tasks[other] = task(module)
    return tasks


def _module(home: Any, name: str, options: argparse.Namespace, **arguments: Any) -> Any:
    return getattr(home, name)(
        input_size=FEATURES,
        hidden_size=options.hidden,
        in_key="observation",
        out_key="features",
        **arguments,
    )


if __name__ == "__main__":
    sys.exit(main())
