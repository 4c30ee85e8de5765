# SPDX-License-Identifier: MIT
"""`fused-rnn doctor --prove`: whether the kernels for GPUs are right on this very device.

Nothing else runs this: `auto` only reads what was found.
"""

from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import NamedTuple

import torch
from torch import Tensor

from .. import FusedGRU, FusedLSTM, FusedRNN, extensions
from ..backends import choice, proven
from ..backends.backend import Query
from ..nn.fused_layer import FusedLayer
from ..testing import assert_within_budget

CELLS = ("rnn_tanh", "rnn_relu", "gru", "gru_reset_before", "lstm")
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
INPUTS = 32


class Shape(NamedTuple):
    """Steps, rows and units of a layer."""

    T: int
    B: int
    H: int


# By its units a layer falls to one form of the kernels or another; many steps show what drifts.
SHAPES = (Shape(40, 9, 64), Shape(40, 9, 256), Shape(40, 9, 1000), Shape(2048, 2, 256))


class Seat(NamedTuple):
    """A device as far as proving depends on one."""

    device: torch.device
    backends: tuple[str, ...]
    synchronize: Callable[[], None]
    # Which kernels are to run a pass, and which ran the last, for the native backend.
    planned: Callable[[str, torch.dtype, Shape, bool], str]
    ran: Callable[[bool], str]
    # Raises where a wait of its kernels ran out.
    check_waits: Callable[[], None]


class _Case(NamedTuple):
    cell: str
    dtype: torch.dtype
    shape: Shape

    def __str__(self) -> str:
        return f"T={self.shape.T} B={self.shape.B} H={self.shape.H}"


class _Problem(NamedTuple):
    layer: FusedLayer
    x: Tensor
    cotangents: tuple[Tensor, Tensor]  # of outputs, and of each state

    def doubled(self) -> "_Problem":
        """A copy of the problem, its numbers in float64."""
        dy, dstate = self.cotangents
        layer = deepcopy(self.layer).double()
        return _Problem(layer, self.x.double(), (dy.double(), dstate.double()))


class _Lost(RuntimeError):
    """The device does not answer any more."""


def cuda_seat(index: int) -> Seat:
    """A CUDA device of this machine."""

    def planned(cell: str, dtype: torch.dtype, shape: Shape, backward: bool) -> str:
        return extensions.cuda_plan(
            cell,
            dtype,
            steps=shape.T,
            batch=shape.B,
            recurrences=1,
            hidden=shape.H,
            device=extensions.cuda_device(index),
            backward=backward,
        )

    device = torch.device("cuda", index)
    return Seat(
        device,
        tuple(name for name, own in choice.BACKENDS.items() if own.is_fused),
        lambda: torch.cuda.synchronize(device),
        planned,
        extensions.last_plan,
        extensions.check_waits,
    )


def prove(seat: Seat, show: Callable[[str], object] = print) -> dict[str, dict[str, str]]:
    """The verdicts on each backend, as `proven.save` keeps them; a line is shown for each type.

    Every layer runs twice: the second call raises where a wait of the first ran out, and must give
    the same bits. What cannot be tried, as the device was lost, is not among what was found.
    """
    found: dict[str, dict[str, str]] = {name: {} for name in seat.backends}
    show(f"  {'cell':<17} {'type':<9}" + "".join(f" {name:<8}" for name in seat.backends))
    for cell in CELLS:
        for dtype in DTYPES:
            word = f"{cell} {str(dtype).removeprefix('torch.')}"
            able = [name for name in seat.backends if _can(name, cell, dtype, seat.device)]
            verdicts = dict.fromkeys(able, "")
            try:
                for shape in SHAPES:
                    _try(seat, _Case(cell, dtype, shape), verdicts)
            except _Lost as lost:
                show(f"  {word}: the device was lost, {lost}")
                return _with(found, word, {n: why for n, why in verdicts.items() if why})
            _with(found, word, verdicts)
            show("\n".join(_lines(seat, word, verdicts)))
    return found


def _can(name: str, cell: str, dtype: torch.dtype, device: torch.device) -> bool:
    query = Query(cell, dtype, device.type, device_index=device.index)
    return choice.BACKENDS[name].why_not(query) is None


def _with(
    found: dict[str, dict[str, str]], word: str, verdicts: dict[str, str]
) -> dict[str, dict[str, str]]:
    for name, verdict in verdicts.items():
        found[name][word] = verdict
    return found


def _lines(seat: Seat, word: str, verdicts: dict[str, str]) -> Iterator[str]:
    said = {"": "right", None: "-"}
    cell, _, dtype = word.partition(" ")
    shown = [said.get(verdicts.get(name), "wrong") for name in seat.backends]
    yield f"  {cell:<17} {dtype:<9}" + "".join(f" {one:<8}" for one in shown)
    yield from (f"    {name}: {why}" for name, why in verdicts.items() if why)


def _try(seat: Seat, case: _Case, verdicts: dict[str, str]) -> None:
    """Adds to what is said of each backend what a case shows; the first that is wrong stays.

    Raises:
        _Lost: the device answers no more, which is said of the backend that ran last.
    """
    problem = _problem(seat.device, case)
    try:
        truths = _results(problem.doubled(), "reference")
        references = _results(problem, "reference")
    except RuntimeError as error:
        raise _Lost(_first_line(error)) from error
    for name in (name for name, verdict in verdicts.items() if not verdict):
        try:
            results = _twice(seat, case, name, problem)
            for actual, truth, reference in zip(results, truths, references, strict=True):
                assert_within_budget(actual, truth, reference)
        except _failures() as error:
            verdicts[name] = f"{case}: {_first_line(error)}"
            try:
                seat.synchronize()
            except RuntimeError as lost:
                raise _Lost(f"by {name}: {_first_line(lost)}") from lost


def _problem(device: torch.device, case: _Case) -> _Problem:
    (T, B, H), dtype = case.shape, case.dtype
    torch.manual_seed(0)
    layer = _layer(case.cell, H)
    x = torch.randn(T, B, INPUTS)
    if case.cell == "rnn_relu":
        _keep_off_the_kink(x, layer)
    layer = layer.to(device, dtype)
    dy, dstate = (torch.randn(shape).to(device, dtype) for shape in ((T, B, H), (1, B, H)))
    return _Problem(layer, x.to(device, dtype), (dy, dstate))


def _layer(cell: str, hidden: int) -> FusedLayer:
    if cell == "lstm":
        return FusedLSTM(INPUTS, hidden)
    if cell.startswith("gru"):
        return FusedGRU(INPUTS, hidden, reset_after=cell == "gru")
    return FusedRNN(INPUTS, hidden, nonlinearity=cell.removeprefix("rnn_"))


@torch.no_grad()
def _keep_off_the_kink(x: Tensor, layer: FusedLayer) -> None:
    """Turns each unit of a rectified network clearly on or off, through a constant input.

    The slope jumps at zero: where rounding decides on which side a sum falls, nothing is truth.
    """
    x[..., 0] = 1
    for weight in layer.parameters():
        weight.div_(4)
    first = next(layer.parameters())
    first[:, 0] = torch.where(first[:, 0] > 0, 4.0, -4.0)


def _twice(seat: Seat, case: _Case, name: str, problem: _Problem) -> list[Tensor]:
    """The results of a backend, whose kernels are those planned and do the same again.

    Raises:
        AssertionError: they are not, or do not.
        RuntimeError: a wait of theirs ran out.
    """
    first, again = (_results(problem, name) for _ in range(2))
    seat.synchronize()
    if name == "native":
        seat.check_waits()
        for backward in (False, True):
            planned = seat.planned(case.cell, case.dtype, case.shape, backward)
            ran = seat.ran(backward)
            if ran != planned:
                raise AssertionError(f"planned was {planned}; what ran is {ran}")
    if not all(torch.equal(*pair) for pair in zip(first, again, strict=True)):
        raise AssertionError("a second call gave other bits, or numbers that are none")
    return first


def _results(problem: _Problem, name: str) -> list[Tensor]:
    """Outputs, states and gradients of a layer on a backend."""
    layer, x = problem.layer, problem.x.detach().requires_grad_()
    with choice.use_backend(name):
        y, state = layer(x)
    states = state if isinstance(state, tuple) else (state,)
    outputs = (y, *states)
    dy, dstate = problem.cotangents
    given = (dy, *[dstate] * len(states))
    grads = torch.autograd.grad(outputs, (x, *layer.parameters()), given)
    return [t.detach() for t in (*outputs, *grads)]


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]


def _failures() -> tuple[type[Exception], ...]:
    """The exceptions of kernels, those of Triton included that cannot be compiled or launched."""
    try:
        from triton.errors import TritonError
    except ImportError:
        return RuntimeError, AssertionError
    return RuntimeError, AssertionError, TritonError


def prove_devices() -> int:
    """Proves every CUDA device and keeps what was found; the exit status, 1 for a failure."""
    if not torch.cuda.is_available():
        print("\nThere is no CUDA device to prove anything on.")
        return 1
    wrong = 0
    for index in range(torch.cuda.device_count()):
        print(f"\nProving device {index}, {torch.cuda.get_device_name(index)}:", flush=True)
        found = prove(cuda_seat(index), lambda line: print(line, flush=True))
        for tier, count in extensions.fallbacks().items():
            print(f"  {tier} was refused as too large {count} times")
        print(f"Kept in {proven.save(index, found)}")
        wrong += sum(bool(why) for verdicts in found.values() for why in verdicts.values())
    return 1 if wrong else 0
