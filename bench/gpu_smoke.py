# SPDX-License-Identifier: MIT
"""One layer on a GPU, in a process of its own: `python -m bench.gpu_smoke NAME forward|backward`.

Right by the one tolerance, by the kernels that were planned and with no wait in vain, or exit
status 1 and a line that says what is wrong.
"""

import sys
import time
from typing import NamedTuple

import torch

from bench import problems, rehearsal
from bench.cases import Case
from bench.providers import ours
from fused_rnn import extensions

PASSES = ("forward", "backward")


class Smoke(NamedTuple):
    """A layer that falls to one form of the kernels."""

    backend: str
    cell: str
    batch: int
    steps: int
    hidden: int
    tier: str = ""  # of the CUDA kernels, on Hopper
    dtype: str = "bfloat16"
    directions: int = 1

    def case(self) -> Case:
        """The same as the benchmark has it."""
        size = (self.batch, self.steps, 64, self.hidden)
        case = Case(self.cell, *size, "smoke", "smoke", self.dtype)
        return case._replace(directions=self.directions)


# In the order of how much can go wrong.
SMOKES = {
    "stepwise": Smoke("native", "lstm", 9, 20, 2100, "tier stepwise"),
    "exact": Smoke("native", "lstm", 9, 40, 64, "tier exact", dtype="float32"),
    "block": Smoke("native", "lstm", 9, 40, 128, "tier block"),
    "cluster": Smoke("native", "lstm", 16, 40, 512, "tier cluster"),
    "grid": Smoke("native", "lstm", 16, 40, 1024, "tier grid"),
    "columns": Smoke("native", "gru", 16, 40, 900, "tier grid", directions=2),
    "triton-step": Smoke("triton", "gru", 9, 1, 256),
    "triton-block": Smoke("triton", "lstm", 9, 40, 64),
    "triton-grid": Smoke("triton", "lstm", 16, 40, 512),
    "triton-streamed": Smoke("triton", "gru", 9, 20, 1100),
}


def plan(smoke: Smoke, backward: bool) -> str:
    """Which CUDA kernels are to run a pass of it on the current device."""
    return extensions.cuda_plan(
        smoke.cell,
        getattr(torch, smoke.dtype),
        steps=smoke.steps,
        batch=smoke.batch,
        recurrences=smoke.directions,
        hidden=smoke.hidden,
        device=rehearsal.device_sizes(),
        backward=backward,
    )


def check(name: str, direction: str) -> str:
    """Runs it; a line that says what ran.

    Raises:
        AssertionError: a result is wrong, or other kernels ran.
        RuntimeError: a kernel failed, or a wait ran out.
    """
    smoke, start = SMOKES[name], time.perf_counter()
    problem = problems.make(smoke.case()).to(rehearsal.DEVICE, getattr(torch, smoke.dtype))
    mode = "train" if direction == "backward" else "infer"
    with torch.set_grad_enabled(mode == "train"):
        call = ours(problem, mode, rehearsal.backend(smoke.backend))
        results = [call.tensors(call.run()) for _ in range(2)]
        rehearsal.synchronize()
        said = "" if smoke.backend == "triton" else _as_planned(smoke, mode == "train")
        worst = problems.Gate(problem, mode).worst(results[0])
    # `not <=`: an error that is NaN fails too.
    if not worst <= 1:
        raise AssertionError(f"wrong: {worst:.3g} times the tolerance; {said}")
    if not all(torch.equal(*pair) for pair in zip(*results, strict=True)):
        raise AssertionError(f"a second call gave other bits; {said}")
    return f"{worst:.2f} of the tolerance, {time.perf_counter() - start:.1f} s; {said}"


def _as_planned(smoke: Smoke, backward: bool) -> str:
    rehearsal.check_waits()
    planned = plan(smoke, backward)
    ran = rehearsal.last_plan(planned, backward)
    if ran != planned or not ran.startswith(smoke.tier):
        raise AssertionError(f"expected {smoke.tier}, planned {planned}; what ran is {ran}")
    return ran


def main() -> int:
    """Prints what ran, or why it is wrong."""
    try:
        print(check(sys.argv[1], sys.argv[2]))
    except (RuntimeError, AssertionError) as error:
        print(f"FAILED: {str(error).splitlines()[0]}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
