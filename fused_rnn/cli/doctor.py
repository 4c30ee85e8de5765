# SPDX-License-Identifier: MIT
"""`fused-rnn doctor`: what this machine and this build can do."""

import argparse
import platform
from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import partial
from importlib import metadata
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .. import FusedGRU, FusedLSTM, FusedRNN, explain, extensions, use_backend
from ..backends import choice
from ..backends.backend import Query
from ..nn.fused_layer import FusedLayer
from ..testing import assert_within_budget
from .proving import prove_devices
from .timing import alternate

Task = Callable[[nn.Module, Tensor, Tensor], list[Tensor]]

_LAYERS = (FusedRNN, FusedGRU, FusedLSTM)
_SECONDS = 10.0


class _Shape(NamedTuple):
    B: int
    T: int
    I: int  # noqa: E741
    H: int


def add_command(commands: Any) -> None:
    """Adds doctor to the commands of `fused-rnn`."""
    parser = commands.add_parser("doctor", help="versions, build, devices, backends, speed")
    parser.set_defaults(run=_doctor)
    parser.add_argument(
        "--shape",
        type=_shape,
        metavar="B,T,I,H",
        help="compare with torch.nn for ten seconds: batch, steps, input size, hidden size",
    )
    parser.add_argument(
        "--prove",
        action="store_true",
        help="check the kernels for GPUs on the CUDA devices here; `auto` takes what is right",
    )


def version() -> str:
    """Returns the version of this package, or why there is none to tell."""
    try:
        return metadata.version("fused_rnn")
    except metadata.PackageNotFoundError:
        return "run from its source tree, not installed"


def _shape(text: str) -> _Shape:
    try:
        shape = _Shape(*(int(number) for number in text.split(",")))
    except (TypeError, ValueError):
        shape = _Shape(0, 0, 0, 0)
    if min(shape) < 1:
        raise argparse.ArgumentTypeError(f"expected B,T,I,H as in 32,64,256,256, got {text!r}")
    return shape


def _doctor(arguments: argparse.Namespace) -> int:
    for name, value in _facts():
        print(f"{name:<18} {value}")
    if extensions.why_unavailable() is None:
        print("\nProducts of one thread whose operands lie near, GFLOP/s, and what serves a dtype:")
        for line in _products():
            print(f"  {line}")
    print("\nBackends, as `auto` asks them, for a float32 layer:")
    for device in _devices():
        query = Query("gru", torch.float32, device.type, device_index=device.index)
        for name in choice.BACKENDS:
            reason = choice.why_not(name, query)
            said = "runs" if reason is None else f"no: {reason}"
            print(f"  {device!s:<6} {name:<10} {said}")
    status = prove_devices() if arguments.prove else 0
    if arguments.shape:
        return _compare(arguments.shape) or status
    return status


def _facts() -> Iterator[tuple[str, str]]:
    yield "fused_rnn", version()
    yield "torch", torch.__version__
    yield "Python", f"{platform.python_version()}, {platform.platform()}"
    reason = extensions.why_unavailable()
    if reason is not None:
        yield "native kernels", f"none: {reason}"
    else:
        yield from extensions.build_info().items()
        sets = ", ".join(extensions.instruction_sets())
        yield "instruction sets", f"{sets}; in use: {extensions.instruction_set()}"
        stored = extensions.stored_instruction_sets()
        used = {kind: extensions.stored_instruction_set(kind) for kind in ("int8", "bfloat16")}
        in_use = f"{used['int8']} for int8, {used['bfloat16']} for 16 bits"
        yield "quantized weights", f"{', '.join(stored)}; in use: {in_use}"
        yield "AMX", extensions.why_not_amx() or "yes, and the kernel permits it"
    yield "threads", str(torch.get_num_threads())
    if not torch.cuda.is_available():
        yield "devices", f"cpu ({platform.machine()}); no CUDA device"
    else:
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        yield "devices", f"cpu ({platform.machine()}); cuda: {', '.join(names)}"


def _products() -> Iterator[str]:
    for dtype in extensions.DTYPES:
        rates = [
            (name, extensions.product_rate(name, dtype)) for name in extensions.instruction_sets()
        ]
        measured = ", ".join(f"{name} {rate / 1e9:.0f}" for name, rate in rates if rate)
        small, large = extensions.serving(dtype)
        more = "" if small == large else f", by {large} where tiles pay"
        yield f"{str(dtype).removeprefix('torch.'):<9} {measured}; served by {small}{more}"


def _devices() -> Iterator[torch.device]:
    yield torch.device("cpu")
    if torch.cuda.is_available():
        yield from (torch.device("cuda", index) for index in range(torch.cuda.device_count()))


def _compare(shape: _Shape) -> int:
    B, T, I, H = shape  # noqa: E741
    print(f"\nCPU, float32, B={B} T={T} I={I} H={H}; milliseconds of one call, median:")
    print(f"  {'layer':<10} {'mode':<6} {'fused':>9} {'torch.nn':>9} {'ratio':>7}  backend")
    torch.manual_seed(0)
    x, dy = torch.randn(T, B, I), torch.randn(T, B, H)
    wrong = 0
    for cls in _LAYERS:
        fused = cls(I, H)
        plain = fused.to_torch()
        backend = explain(fused, x).split()[0]
        for mode, task in (("infer", _infer), ("train", _train)):
            row = f"  {cls.__name__:<10} {mode:<6}"
            problem = _difference(task, fused, x, dy)
            if problem:
                # What computes something else is not timed.
                print(f"{row} wrong: {problem}", flush=True)
                wrong += 1
                continue
            ours, theirs = alternate(
                [partial(task, module, x, dy) for module in (fused, plain)],
                seconds=_SECONDS / (2 * len(_LAYERS)),
            )
            print(
                f"{row} {1e3 * ours.median:9.3f} {1e3 * theirs.median:9.3f} "
                f"{theirs.median / ours.median:6.2f}x  {backend}",
                flush=True,
            )
    print("  infer: forward, no gradients; train: forward, then backward to input and weights")
    return 1 if wrong else 0


def _infer(module: nn.Module, x: Tensor, dy: Tensor) -> list[Tensor]:
    with torch.no_grad():
        return [module(x)[0]]


def _train(module: nn.Module, x: Tensor, dy: Tensor) -> list[Tensor]:
    x = x.detach().requires_grad_()
    y = module(x)[0]
    return [y, *torch.autograd.grad(y, (x, *module.parameters()), dy)]


def _difference(task: Task, fused: FusedLayer, x: Tensor, dy: Tensor) -> str:
    """The error in a layer's results, measured as the tests do; "" for none."""
    truths = task(deepcopy(fused).to_torch().double(), x.double(), dy.double())
    with use_backend("reference"):
        references = task(fused, x, dy)
    results = zip(task(fused, x, dy), truths, references, strict=True)
    try:
        for actual, truth, reference in results:
            assert_within_budget(actual, truth, reference)
    except AssertionError as error:
        return str(error)
    return ""
