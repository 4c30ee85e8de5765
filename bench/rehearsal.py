# SPDX-License-Identifier: MIT
"""The device of the parts for a GPU, or the CPU in its place: `FUSED_RNN_REHEARSAL=1`.

A rehearsal replaces calls of the device and nothing else, so that on the day no path, import or
file name is wrong. Its times mean nothing, and its Triton kernels are the reference.
"""

import os
import sys
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch

from bench.cases import Case
from fused_rnn import extensions

REHEARSED = os.environ.get("FUSED_RNN_REHEARSAL") == "1"
DEVICE = "cpu" if REHEARSED else "cuda"
# What of the many tests is enough to try.
SOME_TESTS = ("-k", "test_every_option and gru-") if REHEARSED else ()
# The sizes of an H200.
_SIZES = extensions.CudaDevice(132, 227 * 1024, 16)
_TIMES = {"p20": 1e-3, "p50": 1e-3, "p80": 1e-3, "peak_bytes": 1}


def backend(name: str) -> str:
    """The backend that stands for another."""
    return "reference" if REHEARSED and name == "triton" else name


def device_sizes() -> extensions.CudaDevice:
    """Those of the current device."""
    return _SIZES if REHEARSED else extensions.cuda_device(torch.cuda.current_device())


def synchronize() -> None:
    """Waits for the device."""
    if not REHEARSED:
        torch.cuda.synchronize()


def check_waits() -> None:
    """Raises where a wait of a kernel ran out."""
    if not REHEARSED:
        extensions.check_waits()


def last_plan(planned: str, backward: bool) -> str:
    """Which CUDA kernels ran the last pass: in a rehearsal those that were planned."""
    return planned if REHEARSED else extensions.last_plan(backward)


def architecture() -> str:
    """What nvcc calls the current device."""
    major, minor = (9, 0) if REHEARSED else torch.cuda.get_device_capability()
    return f"{major}{minor}" + "a" * (major >= 9)


def shrunk(case: Case) -> Case:
    """The case that stands for another: in a rehearsal one that takes no time."""
    return case.shrunk() if REHEARSED else case


def timer(real: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """What measures a call: in a rehearsal nothing does."""
    return (lambda run: dict(_TIMES)) if REHEARSED else real


def play() -> None:
    """Has tests that ask for a CUDA device run on the CPU."""
    plans = {False: "", True: ""}
    plan = extensions.cuda_plan

    def cuda_plan(*arguments: Any, backward: bool = False, **sizes: Any) -> str:
        plans[backward] = plan(*arguments, backward=backward, **sizes)
        return plans[backward]

    played: dict[Any, dict[str, Any]] = {
        torch.cuda: {
            "is_available": lambda: True,
            "current_device": lambda: 0,
            "synchronize": lambda device=None: None,
            "Stream": object,
            "stream": nullcontext,
            "_sleep": lambda cycles: None,
        },
        torch.Tensor: {"cuda": lambda tensor: tensor.clone()},
        extensions: {
            "why_cuda_unavailable": lambda index=0: None,
            "cuda_device": lambda index: _SIZES,
            "cuda_plan": cuda_plan,
            "last_plan": plans.get,
            "check_waits": lambda: None,
        },
    }
    for owner, functions in played.items():
        for name, function in functions.items():
            setattr(owner, name, function)
    print("rehearsed on the CPU", file=sys.stderr)
