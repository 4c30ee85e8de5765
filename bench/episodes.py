# SPDX-License-Identifier: MIT
"""How long an update of sb3-contrib's RecurrentPPO takes: `python -m bench.episodes`.

Its own LSTM policy beside `fused_rnn.rl.MlpLstmPolicy`, from the same parameters and over
rollouts of the same size of CartPole, in turns: the learning alone, without the environments.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch
from sb3_contrib import RecurrentPPO
from stable_baselines3.common.env_util import make_vec_env

from bench import machine
from fused_rnn import rl
from fused_rnn.cli.timing import alternate

RESULTS = machine.ROOT / "bench" / "results" / "episodes.jsonl"
OURS, THEIRS = "fused_rnn.rl", "sb3-contrib"


def main(arguments: list[str] | None = None) -> int:
    """Measures one update, and appends a row to the results."""
    parser = argparse.ArgumentParser(prog="python -m bench.episodes", description=__doc__)
    parser.add_argument("--out", type=Path, default=RESULTS, help="file of results")
    parser.add_argument("--threads", type=int, default=1, help="(default 1)")
    parser.add_argument("--seconds", type=float, default=60.0, help="(default 60)")
    parser.add_argument("--environments", type=int, default=8, help="(default 8)")
    parser.add_argument("--steps", type=int, default=128, help="of each rollout (default 128)")
    parser.add_argument("--hidden", type=int, default=256, help="units of an LSTM (default 256)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    models = {OURS: _model(rl.MlpLstmPolicy, options), THEIRS: _model("MlpLstmPolicy", options)}
    tasks = [model.train for model in models.values()]
    times = alternate(tasks, seconds=options.seconds, warm_up=1)
    row = {
        "seconds": {name: time._asdict() for name, time in zip(models, times, strict=True)},
        "ratio": times[1].median / times[0].median,
        "environments": options.environments,
        "steps": options.steps,
        "hidden": options.hidden,
        "threads": options.threads,
        "episodes_begun": int(models[OURS].rollout_buffer.episode_starts.sum()),
        **machine.record(),
    }
    print(json.dumps({key: row[key] for key in ("seconds", "ratio", "episodes_begun")}))
    with open(options.out, "a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
    return 0


def _model(policy: Any, options: argparse.Namespace) -> Any:
    """A learner that has filled its buffer once, and learnt from it."""
    rollout = options.environments * options.steps
    model = RecurrentPPO(
        policy,
        make_vec_env("CartPole-v1", options.environments, seed=0),
        n_steps=options.steps,
        n_epochs=1,
        policy_kwargs={"lstm_hidden_size": options.hidden},
        seed=0,
        device="cpu",
    )
    return model.learn(rollout)


if __name__ == "__main__":
    sys.exit(main())
