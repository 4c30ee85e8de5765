# SPDX-License-Identifier: MIT
"""Which backend runs a layer, and why the faster ones do not."""

import functools
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

import torch

from . import native, proven, triton
from .triton.configurations import TABLE, Block, Grid


class Query(NamedTuple):
    """What the choice of a backend may depend on, besides the build."""

    cell: str
    dtype: torch.dtype
    device: str
    reverse: tuple[int, ...] = (0,)
    resets: bool = False
    projection: bool = False
    device_index: int | None = None  # None is the current one
    hidden: int | None = None  # H, where it is known
    shape: tuple[int, int, int] | None = None  # T, B, H, for what `explain` tells of the kernels

    @property
    def cuda_index(self) -> int:
        """Which of the CUDA devices it is."""
        if self.device_index is not None or not torch.cuda.is_available():
            return self.device_index or 0
        return torch.cuda.current_device()


def _why_not_native(query: Query) -> str | None:
    if query.device not in ("cpu", "meta", "cuda"):
        return f"its kernels run on the CPU and on CUDA devices, not on {query.device}"
    if query.dtype not in native.DTYPES:
        return f"its kernels compute in float64, float32, bfloat16 and float16, not {query.dtype}"
    if query.device != "cuda":
        return native.why_unavailable()
    if query.projection:
        return "its LSTM has no projection of the output on CUDA devices"
    if len(query.reverse) > native.CUDA_RECURRENCES:
        return f"it runs {native.CUDA_RECURRENCES} recurrences side by side on CUDA, not more"
    return native.why_cuda_unavailable(query.cuda_index)


def _why_not_triton(query: Query) -> str | None:
    if query.device != "cuda":
        return f"its kernels run on CUDA devices, not on {query.device}"
    if query.dtype not in triton.DTYPES:
        return f"its kernels compute in float32, bfloat16 and float16, not {query.dtype}"
    if query.projection:
        return "its LSTM has no projection of the output"
    if len(query.reverse) > triton.MOST_RECURRENCES:
        return f"it runs {triton.MOST_RECURRENCES} recurrences side by side, not more"
    return _why_triton_unavailable(query.cuda_index)


def _why_triton_unavailable(index: int) -> str | None:
    return triton.why_unavailable(index)


# As in `native`: not for the compiler to look into.
_why_triton_unavailable._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _why_not_torch(query: Query) -> str | None:
    if query.cell == "gru_reset_before":
        return "PyTorch has no GRU with the reset gate before the product"
    if query.resets:
        return "PyTorch has no resets inside a sequence"
    if query.reverse not in ((0,), (0, 1)):
        return f"PyTorch runs one forward recurrence or both directions, not {query.reverse}"
    if query.dtype.is_floating_point and query.dtype.itemsize == 1:
        return f"PyTorch has no layer that computes in {query.dtype}"
    return None


def _why_not_reference(query: Query) -> str | None:
    return None


def _why_not_automatic(name: str, query: Query) -> str | None:
    """Why `auto` leaves to others what a backend can run; None where it does not."""
    if name not in KERNELS or query.device != "cuda":
        return None
    dtype, index = query.dtype, query.cuda_index
    reason = proven.why_unproven(name, query.cell, str(dtype).removeprefix("torch."), index)
    if reason is not None:
        return reason
    if query.hidden is None or dtype not in _EXACT or _why_not_torch(query) is not None:
        return None
    if name == "native":
        kept = native.largest_kept(query.cell, dtype, index)
    else:
        kept = max(most for most, form in TABLE[8 * dtype.itemsize].items() if _stays(form))
    if query.hidden <= kept:
        return None
    return f"of more than {kept} units it reads the weights in {dtype} anew for each step"


def _stays(form: Block | Grid) -> bool:
    return isinstance(form, Block) or form.resident


# In the order `auto` asks.
PREDICATES: dict[str, Callable[[Query], str | None]] = {
    "native": _why_not_native,
    "triton": _why_not_triton,
    "torch": _why_not_torch,
    "reference": _why_not_reference,
}
# The backends with this package's kernels; falling past them is worth a warning.
KERNELS = ("native", "triton")
# The types without kernels for large layers on CUDA devices.
_EXACT = (torch.float32, torch.float64)

_requested: ContextVar[str] = ContextVar("fused_rnn_backend", default="auto")


# The names in all open `use_backend` contexts, where torch.compile can see them: it looks into no
# ContextVar. They are those of all threads, as a graph compiled in one may serve another.
_open_contexts: list[str] = []


# Whether `explained` makes the call that is under way.
_explaining: ContextVar[bool] = ContextVar("fused_rnn_explaining", default=False)


class Explained(Exception):
    """The end of a call that `explained` makes: what would have run it, and how that was asked."""

    def __init__(self, found: Query | str, requested: str = "auto") -> None:
        super().__init__(found, requested)
        self.found = found
        self.requested = requested


def explained(call: Callable[[], object]) -> Explained | None:
    """Where a call comes to what runs it, which it does not run; None if it never did."""
    token = _explaining.set(True)
    try:
        call()
    except Explained as end:
        return end
    finally:
        _explaining.reset(token)
    return None


def is_explaining() -> bool:
    """Whether a call is to end with `Explained` instead of a run."""
    return not torch.compiler.is_compiling() and _explaining.get()


def check_name(name: str) -> str:
    """`name` itself, if it names a backend or "auto".

    Raises:
        ValueError: it does not.
    """
    if name != "auto" and name not in PREDICATES:
        known = ", ".join(repr(known) for known in ("auto", *PREDICATES))
        raise ValueError(f"backend: expected one of {known}, got {name!r}")
    return name


def asked_for(requested: str) -> str:
    """The name requested, or in its place, if that is "auto", what `use_backend` names.

    Raises:
        ValueError: `requested` is no backend.
    """
    if requested != "auto":
        return check_name(requested)
    if torch.compiler.is_compiling():
        return _open_contexts[-1] if _open_contexts else "auto"
    return _requested.get()


def choose(query: Query, requested: str = "auto") -> str:
    """The backend that runs `query`.

    A request by name goes before `use_backend`, which goes before the automatic choice; only
    that last one looks further when a backend cannot run, and past kernels for GPUs that are not
    proven on the device (`proven`).

    Raises:
        RuntimeError: the backend asked for by name cannot run `query`.
        ValueError: `requested` is no backend.
        Explained: this is what was wanted of the call.
    """
    if is_explaining():
        raise Explained(query, requested)
    name = asked_for(requested)
    if name == "auto":
        name, reasons = _first_able(query)
        if name not in KERNELS and not torch.compiler.is_compiling():
            headline = f"fused_rnn: no fused kernel serves this input, {name!r} runs instead"
            warn_once(headline, *reasons)
        return name
    reason = PREDICATES[name](query)
    if reason is not None:
        raise RuntimeError(f"backend {name!r} was asked for and cannot run this: {reason}")
    return name


def planned(query: Query, requested: str = "auto") -> str:
    """The name that `choose` comes to, without a warning, and whether or not it can run."""
    name = asked_for(requested)
    return _first_able(query)[0] if name == "auto" else name


def why_not(name: str, query: Query) -> str | None:
    """Why `auto` does not take a backend for `query`; None where it would."""
    return PREDICATES[name](query) or _why_not_automatic(name, query)


def _first_able(query: Query) -> tuple[str, list[str]]:
    """The backend that `auto` takes, and what kept it from those before."""
    reasons: list[str] = []
    for name in PREDICATES:
        reason = why_not(name, query)
        if reason is None:
            break
        reasons.append(f"{name}: {reason}")
    return name, reasons


@functools.cache
def warn_once(headline: str, *reasons: str) -> None:
    """Warns of a backend that is not the fastest, of each headline and reasons once."""
    warnings.warn("; ".join((headline, *reasons)), RuntimeWarning, stacklevel=2)


def explain(query: Query, requested: str = "auto") -> str:
    """Lines that name the backend `query` runs on, and what keeps each faster one from it.

    Raises:
        RuntimeError: the backend asked for by name cannot run `query`.
        ValueError: `requested` is no backend.
    """
    chosen = choose(query, requested)
    lines = [f"{chosen} runs this", *_plans(query, chosen)]
    for name in PREDICATES:
        if name == chosen:
            break
        lines.append(f"  not {name}: {why_not(name, query) or f'{chosen} was asked for'}")
    return "\n".join(lines)


def _plans(query: Query, chosen: str) -> Iterator[str]:
    """What the CUDA kernels make of a query whose shape is known, a line for each pass."""
    if chosen != "native" or query.device != "cuda" or query.shape is None:
        return
    steps, batch, hidden = query.shape
    sizes = dict(steps=steps, batch=batch, recurrences=len(query.reverse), hidden=hidden)
    device = native.cuda_device(query.cuda_index)
    for name, backward in (("forward", False), ("backward", True)):
        plan = native.cuda_plan(query.cell, query.dtype, **sizes, device=device, backward=backward)
        yield f"  {name}: {plan}"
    for tier, count in native.fallbacks().items():
        yield f"  {tier} was refused as too large {count} times in this process"


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Layers called inside run on `name`, unless made with a backend of their own.

    Raises:
        ValueError: `name` is no backend.
    """
    check_name(name)
    token = None if torch.compiler.is_compiling() else _requested.set(name)
    _open_contexts.append(name)
    try:
        yield
    finally:
        _open_contexts.remove(name)
        if token is not None:
            _requested.reset(token)
