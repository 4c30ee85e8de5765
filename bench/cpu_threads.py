# SPDX-License-Identifier: MIT
"""The CPU kernels beside torch.nn at some threads: `python -m bench.cpu_threads COUNT FILE`.

Ten seconds, to see whether barriers and splits scale; what is published comes from `bench.run`.
"""

import json
import sys
from pathlib import Path

import torch

from bench import machine, problems
from bench.cases import Case
from bench.harness import empty_row
from bench.providers import TORCH
from bench.rehearsal import REHEARSED
from fused_rnn.cli.timing import alternate

PROVIDERS = ("fused_rnn", "torch.nn")
_SHAPE = (16, 64, 256, 256)
_SECONDS = 0.2 if REHEARSED else 2.5


def measure(count: int, path: Path) -> str:
    """Adds two rows for each cell and mode; a line of their ratios.

    Raises:
        AssertionError: a result of ours is wrong.
    """
    torch.set_num_threads(count)
    record, ratios = machine.record(), []
    for cell in ("lstm", "gru"):
        case = Case(cell, *_SHAPE, "time against threads", "scale-threads", threads=count)
        problem = problems.make(case)
        for mode in ("infer", "train"):
            with torch.set_grad_enabled(mode == "train"):
                calls = [TORCH[name](problem, mode) for name in PROVIDERS]
                error = problems.Gate(problem, mode).worst(calls[0].tensors(calls[0].run()))
                if not error <= 1:
                    raise AssertionError(f"{case.name} {mode}: {error:.3g} times the tolerance")
                times = alternate([call.run for call in calls], seconds=_SECONDS)
            with path.open("a", encoding="utf-8") as file:
                for name, found in zip(PROVIDERS, times, strict=True):
                    spread = {"p20": found.p20, "p50": found.median, "p80": found.p80}
                    row = record | empty_row(case, mode, name) | spread
                    file.write(json.dumps(row) + "\n")
            ratios.append(f"{cell} {mode} {times[1].median / times[0].median:.2f}")
    return f"torch.nn over ours at {count} threads: {', '.join(ratios)}"


if __name__ == "__main__":
    print(measure(int(sys.argv[1]), Path(sys.argv[2])))
