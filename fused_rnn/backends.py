# SPDX-License-Identifier: MIT
"""Which backend runs a layer, and why the faster ones do not."""

import functools
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

import torch

from . import native, triton


class Query(NamedTuple):
    """What the choice of a backend may depend on, besides the build."""

    cell: str
    dtype: torch.dtype
    device: str
    reverse: tuple[int, ...] = (0,)
    resets: bool = False
    projection: bool = False
    shape: tuple[int, int, int] | None = None  # T, B, H, for what `explain` tells of the kernels


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
    return native.why_cuda_unavailable()


def _why_not_triton(query: Query) -> str | None:
    if query.device != "cuda":
        return f"its kernels run on CUDA devices, not on {query.device}"
    if query.dtype not in triton.DTYPES:
        return f"its kernels compute in float32, bfloat16 and float16, not {query.dtype}"
    if query.projection:
        return "its LSTM has no projection of the output"
    if len(query.reverse) > triton.MOST_RECURRENCES:
        return f"it runs {triton.MOST_RECURRENCES} recurrences side by side, not more"
    return triton.why_unavailable()


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


# In the order `auto` asks.
PREDICATES: dict[str, Callable[[Query], str | None]] = {
    "native": _why_not_native,
    "triton": _why_not_triton,
    "torch": _why_not_torch,
    "reference": _why_not_reference,
}
# The backends with this package's kernels; falling past them is worth a warning.
KERNELS = ("native", "triton")

_requested: ContextVar[str] = ContextVar("fused_rnn_backend", default="auto")


# The names in all open `use_backend` contexts, where torch.compile can see them: it looks into no
# ContextVar. They are those of all threads, as a graph compiled in one may serve another.
_open_contexts: list[str] = []


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
    that last one looks further when a backend cannot run.

    Raises:
        RuntimeError: the backend asked for by name cannot run `query`.
        ValueError: `requested` is no backend.
    """
    name = asked_for(requested)
    if name == "auto":
        return _first_able(query)
    reason = PREDICATES[name](query)
    if reason is not None:
        raise RuntimeError(f"backend {name!r} was asked for and cannot run this: {reason}")
    return name


def _first_able(query: Query) -> str:
    reasons = []
    for name, why_not in PREDICATES.items():
        reason = why_not(query)
        if reason is None:
            break
        reasons.append(f"{name}: {reason}")
    if name not in KERNELS and not torch.compiler.is_compiling():
        _warn_once(f"fused_rnn: no fused kernel serves this input, {name!r} runs instead", *reasons)
    return name


@functools.cache
def _warn_once(headline: str, *reasons: str) -> None:
    warnings.warn("; ".join((headline, *reasons)), RuntimeWarning, stacklevel=2)


def explain(query: Query, requested: str = "auto") -> str:
    """Lines that name the backend `query` runs on, and what keeps each faster one from it.

    Raises:
        RuntimeError: the backend asked for by name cannot run `query`.
        ValueError: `requested` is no backend.
    """
    chosen = choose(query, requested)
    lines = [f"{chosen} runs this", *_plans(query, chosen)]
    for name, why_not in PREDICATES.items():
        if name == chosen:
            break
        lines.append(f"  not {name}: {why_not(query) or f'{chosen} was asked for'}")
    return "\n".join(lines)


def _plans(query: Query, chosen: str) -> Iterator[str]:
    """What the CUDA kernels make of a query whose shape is known, a line for each pass."""
    if chosen != "native" or query.device != "cuda" or query.shape is None:
        return
    steps, batch, hidden = query.shape
    sizes = dict(steps=steps, batch=batch, recurrences=len(query.reverse), hidden=hidden)
    device = native.cuda_device(torch.cuda.current_device())
    for name, backward in (("forward", False), ("backward", True)):
        plan = native.cuda_plan(query.cell, query.dtype, **sizes, device=device, backward=backward)
        yield f"  {name}: {plan}"


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
