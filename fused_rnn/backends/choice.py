# SPDX-License-Identifier: MIT
"""The choice of the backend that runs a layer, and the reasons against the faster ones."""

import functools
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

from .. import extensions
from . import proven
from .aten import TORCH
from .backend import Query
from .native import NATIVE
from .reference import REFERENCE
from .triton import TRITON

# In the order `auto` asks.
BACKENDS = {own.name: own for own in (NATIVE, TRITON, TORCH, REFERENCE)}
# The types without kernels for large layers on CUDA devices.
_EXACT = (torch.float32, torch.float64)


def _why_not_automatic(name: str, query: Query) -> str | None:
    """The reason why `auto` leaves to others what a backend can run; None where it does not."""
    if query.device != "cuda" or not BACKENDS[name].is_fused:
        return None
    dtype, index = query.dtype, query.cuda_index
    reason = proven.why_unproven(name, query.cell, str(dtype).removeprefix("torch."), index)
    if reason is not None:
        return reason
    most_units = BACKENDS[name].most_units
    if most_units is None or query.hidden is None or dtype not in _EXACT:
        return None
    if TORCH.why_not(query) is not None:
        return None
    kept = most_units(query)
    if query.hidden <= kept:
        return None
    return f"of more than {kept} units it reads the weights in {dtype} anew for each step"


_requested: ContextVar[str] = ContextVar("fused_rnn_backend", default="auto")


# The names in all open `use_backend` contexts, where torch.compile can see them: it looks into no
# ContextVar. They are those of all threads, as a graph compiled in one may serve another.
_open_contexts: list[str] = []


# Whether `explained` makes the call that is under way, and, quicker to ask, whether that of any
# thread is.
_explaining: ContextVar[bool] = ContextVar("fused_rnn_explaining", default=False)
_explanations: list[None] = []


class Explained(Exception):
    """The end of a call that `explained` makes: what would have run it, and how that was asked."""

    def __init__(self, found: Query | str, requested: str = "auto") -> None:
        super().__init__(found, requested)
        self.found = found
        self.requested = requested


def explained(call: Callable[[], object]) -> Explained | None:
    """The `Explained` that ends a call where a backend would run it; None if none would."""
    token = _explaining.set(True)
    _explanations.append(None)
    try:
        call()
    except Explained as end:
        return end
    finally:
        _explanations.pop()
        _explaining.reset(token)
    return None


def is_explaining() -> bool:
    """Whether a call is to end with `Explained` instead of a run."""
    return bool(_explanations) and not torch.compiler.is_compiling() and _explaining.get()


def check_name(name: str) -> str:
    """`name` itself, if it names a backend or "auto".

    Raises:
        ValueError: it does not.
    """
    if name != "auto" and name not in BACKENDS:
        known = ", ".join(repr(known) for known in ("auto", *BACKENDS))
        raise ValueError(f"backend: expected one of {known}, got {name!r}")
    return name


def asked_for(requested: str) -> str:
    """The name requested or, if that is "auto", the one that `use_backend` names.

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
        if not BACKENDS[name].is_fused and not torch.compiler.is_compiling():
            headline = f"fused_rnn: no fused kernel serves this input, {name!r} runs instead"
            warn_once(headline, *reasons)
        return name
    reason = BACKENDS[name].why_not(query)
    if reason is not None:
        raise RuntimeError(f"backend {name!r} was asked for and cannot run this: {reason}")
    return name


def planned(query: Query, requested: str = "auto") -> str:
    """The name that `choose` comes to, without its warning, even of a backend that cannot run."""
    name = asked_for(requested)
    return _first_able(query)[0] if name == "auto" else name


def why_not(name: str, query: Query) -> str | None:
    """The reason why `auto` does not take a backend for `query`; None where it would."""
    return BACKENDS[name].why_not(query) or _why_not_automatic(name, query)


def _first_able(query: Query) -> tuple[str, list[str]]:
    """The backend that `auto` takes, and the reasons against those before it."""
    reasons: list[str] = []
    for name in BACKENDS:
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
    for name in BACKENDS:
        if name == chosen:
            break
        lines.append(f"  not {name}: {why_not(name, query) or f'{chosen} was asked for'}")
    return "\n".join(lines)


def _plans(query: Query, chosen: str) -> Iterator[str]:
    """Lines on how the CUDA kernels run a query whose shape is known, one for each pass."""
    if chosen != "native" or query.device != "cuda" or query.shape is None:
        return
    steps, batch, hidden = query.shape
    sizes = dict(steps=steps, batch=batch, recurrences=len(query.reverse), hidden=hidden)
    device = extensions.cuda_device(query.cuda_index)
    for name, backward in (("forward", False), ("backward", True)):
        plan = extensions.cuda_plan(
            query.cell, query.dtype, **sizes, device=device, backward=backward
        )
        yield f"  {name}: {plan}"
    for tier, count in extensions.fallbacks().items():
        yield f"  {tier} was refused as too large {count} times in this process"


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """A context in which layers run on `name`, unless made with a backend of their own.

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
