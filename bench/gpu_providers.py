# SPDX-License-Identifier: MIT
"""What is timed on a GPU, eager and as CUDA graphs."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from bench import peers, providers
from bench.problems import Problem
from bench.providers import Call, NoPeer, Unavailable

try:
    from triton.errors import TritonError
except ImportError:
    TritonError = RuntimeError

Build = Callable[[Problem, str], Call]
# What a provider that cannot do a case may raise; FlashRNN asserts.
FAILURES = (RuntimeError, TypeError, ValueError, AssertionError, KeyError, TritonError)


def _peer(name: str, problem: Problem, mode: str) -> Call:
    if problem.case.ragged:
        raise NoPeer("torch.nn takes lengths from the host only")
    return providers.TORCH[name](problem, mode)


def _graphed(build: Build, problem: Problem, mode: str) -> Call:
    """The same call, captured once as a CUDA graph."""
    call = build(problem, mode)
    if problem.x.device.type != "cuda":
        raise Unavailable("only CUDA devices have CUDA graphs")
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        call.run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = call.run()

    def replay() -> list[Tensor]:
        graph.replay()
        return results

    return call._replace(run=replay)


_EAGER: dict[str, Build] = {
    "fused_rnn": partial(providers.ours, backend="native"),
    "fused_rnn-triton": partial(providers.ours, backend="triton"),
    "torch.nn": partial(_peer, "torch.nn"),
    "torch.nn-cell": partial(_peer, "torch.nn-cell"),
    # The type in which cuDNN is at its best.
    "torch.nn-float16": partial(_peer, "torch.nn"),
}
_GRAPHED: dict[str, Build] = {
    f"{name}-graph": partial(_graphed, build) for name, build in _EAGER.items()
}
EAGER, GRAPHS = tuple(_EAGER), tuple(_GRAPHED)
# Every provider by the name its rows carry.
BUILDS: dict[str, Build] = {
    **_EAGER,
    **_GRAPHED,
    "torch.compile": partial(_peer, "torch.compile"),
    **peers.FLASHRNN,
}
# Those that a compiler of theirs makes anew for each shape, in minutes.
COMPILED = ("torch.compile", "flashrnn-fused", "flashrnn-alternating")


def dtype_of(name: str, dtype: str) -> str:
    """The type in which a provider runs a case of some type."""
    return "float16" if "float16" in name else dtype
