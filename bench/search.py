# SPDX-License-Identifier: MIT
"""Speed of search: `python -m bench.search`.

Beam and greedy search over a language model of two GRU layers, beside peers that drive the same
weights with torch.nn's layers. No sequence ends early, so that all run the same steps; a peer's
time counts only if it finds the very sequences. The same model in bfloat16 and in int8 finds
sequences of its own; its time counts if they have the log-probabilities that the model gives them.
The bound is the time of the products at the machine's float32 multiply-add rate.
"""

import argparse
import json
import sys
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any, cast

import torch

from bench import bounds, machine
from bench.search_peers import PEERS, Search, Setting, Unavailable
from fused_rnn import quantize
from fused_rnn.cli.timing import alternate
from fused_rnn.seq2seq import (
    Hypotheses,
    LanguageModel,
    LanguageModelConfig,
    beam_search,
    greedy_search,
    score,
)
from fused_rnn.testing import assert_within_budget

RESULTS = machine.ROOT / "bench" / "results" / "search.jsonl"
_BOS, _EOS, _PAD = 2, 3, 1
# Sharper than the usual start, so that no two hypotheses are nearly equal.
_SHARPNESS = 8.0
# The model in fewer bits.
_SMALLER: dict[str, Callable[[LanguageModel], LanguageModel]] = {
    "fused_rnn, bfloat16 model": lambda model: deepcopy(model).bfloat16(),
    "fused_rnn, int8 model": lambda model: cast(LanguageModel, quantize(deepcopy(model))),
}


def main(arguments: list[str] | None = None) -> int:
    """Times both searches and appends a row of each to the results."""
    parser = argparse.ArgumentParser(prog="python -m bench.search", description=__doc__)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--beam", type=int, default=5)
    parser.add_argument("--vocab", type=int, default=4000)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--seconds", type=float, default=20.0, help="of each search (default 20)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS, help="file of results")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    sizes = {"hidden_size": options.hidden, "embedding_size": options.hidden}
    model = LanguageModel(
        LanguageModelConfig(options.vocab, "gru", num_layers=options.layers, **sizes)
    ).eval()
    with torch.no_grad():
        model.output.weight *= _SHARPNESS
    for beam in (options.beam, 1):
        row = _race(model, beam, options)
        _show(row)
        with open(options.out, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
    return 0


def ours(model: LanguageModel, setting: Setting) -> Callable[[], Hypotheses]:
    """Returns this package's search in a setting."""
    state = model.initial_state(setting.batch)
    fixed: dict[str, Any] = {
        "bos": setting.bos,
        "eos": setting.eos,
        "pad": setting.pad,
        "max_length": setting.steps,
        "ban": (setting.bos, setting.eos, setting.pad),
        "length_penalty": 0.0,
    }
    if setting.beam == 1:
        return lambda: greedy_search(model, state, **fixed)
    return lambda: beam_search(model, state, **fixed, beam_size=setting.beam)


def agrees(model: LanguageModel, setting: Setting, found: Hypotheses) -> bool:
    """Returns whether a model gives sequences the log-probabilities that they were found with."""
    own = score(model, model.initial_state(setting.batch), found.tokens, bos=setting.bos)
    expected = own.token_log_probs
    try:
        assert_within_budget(found.token_log_probs, expected.double(), expected)
    except AssertionError:
        return False
    return True


def products(options: argparse.Namespace, beam: int) -> float:
    """Returns the FLOP of the products of a search: gates of all layers, and the output."""
    H = options.hidden
    one = options.layers * 2 * 3 * H * H + H * options.vocab
    return 2.0 * options.batch * beam * options.steps * one


def _race(model: LanguageModel, beam: int, options: argparse.Namespace) -> dict[str, Any]:
    twin = deepcopy(model)
    twin.rnn = twin.rnn.to_torch()
    setting = Setting(twin, options.batch, beam, options.steps, _BOS, _EOS, _PAD)
    tasks: dict[str, Callable[[], object]] = {"fused_rnn": ours(model, setting)}
    expected = ours(model, setting)().tokens[:, 0]
    others: dict[str, Search] = {}
    # This package's search over torch.nn's layers: what the search alone makes of it.
    over_torch = ours(twin, setting)
    others["fused_rnn over torch.nn"] = lambda: over_torch().tokens[:, 0]
    reasons: dict[str, str] = {}
    for name, build in PEERS.items():
        try:
            others[name] = build(setting)
        except Unavailable as why:
            reasons[name] = str(why)
    for name, search in others.items():
        if torch.equal(search(), expected):
            tasks[name] = search
        else:
            reasons[name] = "finds other sequences"
    for name, convert in _SMALLER.items():
        smaller = convert(model)
        if agrees(smaller, setting, ours(smaller, setting)()):
            tasks[name] = ours(smaller, setting)
        else:
            reasons[name] = "its sequences have other log-probabilities"
    rates = bounds.measure(options.threads)
    times = alternate(list(tasks.values()), seconds=options.seconds, warm_up=1)
    rates = bounds.fastest(rates, bounds.measure(options.threads))
    flop = products(options, beam)
    bound = flop / rates.flops
    return {
        "search": "greedy" if beam == 1 else f"beam {beam}",
        "batch": options.batch,
        "vocab": options.vocab,
        "hidden": options.hidden,
        "layers": options.layers,
        "steps": options.steps,
        "threads": options.threads,
        "unit": "s",
        "times": {name: own._asdict() for name, own in zip(tasks, times, strict=True)},
        "reasons": reasons,
        "flop": flop,
        "bound": bound,
        "flop_per_second": rates.flops,
        **machine.record(),
    }


def _show(row: dict[str, Any]) -> None:
    times: dict[str, dict[str, float]] = row["times"]
    own = times.get("fused_rnn", {}).get("median")
    print(
        f"{row['search']}, batch {row['batch']}, vocabulary {row['vocab']:,}, {row['layers']} x "
        f"{row['hidden']}, {row['steps']} steps, {row['threads']} thread(s): "
        f"{row['flop'] / 1e9:.2f} GFLOP, at {row['flop_per_second'] / 1e9:.0f} GFLOP/s "
        f"{row['bound']:.4f} s"
    )
    for name, time in times.items():
        ratio = f"{time['median'] / own:6.2f}" if own else ""
        print(
            f"  {name:<26} {time['median']:.4f} s ({time['p20']:.4f} to {time['p80']:.4f})  "
            f"{row['bound'] / time['median']:4.0%} of the bound  {ratio}"
        )
    for name, reason in row["reasons"].items():
        print(f"  {name:<26} none: {reason}")


if __name__ == "__main__":
    sys.exit(main())
