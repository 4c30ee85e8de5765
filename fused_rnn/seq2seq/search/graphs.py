# SPDX-License-Identifier: MIT
"""The step of a search as one CUDA graph: captured once in a search, replayed at each step.

A step is some hundred small kernels, which take the host longer to launch than a GPU to run. All
steps of a search have the same shapes, so that one capture serves them; it is not kept beyond the
search, as it holds the addresses of weights. Steps run one by one, as on the CPU, where

- they differ: inside a forced prefix and before min_length (the graph takes over behind them),
  with no_repeat_ngram, with the exact stop rule;
- fewer than `WORTH` are left;
- the model does not promise, by its attribute `capturable`, that its `step` and `reorder` never
  make the host wait for the device. That is said in a warning.
"""

from __future__ import annotations

import gc
import threading
import warnings
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from functools import cache
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from .stepping import Stepper, parts

WORTH = 8
_Carried = TypeVar("_Carried")
_Notes = TypeVar("_Notes")
# Graphs that take turns may share memory; those of two threads may not.
_pools = threading.local()


class Captured(Generic[_Carried, _Notes]):
    """A function of what is carried from step to step, as a CUDA graph.

    Args:
        body: makes of what is carried that of the next step, and notes; it runs once, to be
            captured, and computes nothing then.
        carried: what the first replay starts from, of any structure; tensors are copied.
        generator: draws inside body. Default None: PyTorch's global one.

    Raises:
        ValueError: something carried changes its shape or its type.
    """

    def __init__(
        self,
        body: Callable[[_Carried], tuple[_Carried, _Notes]],
        carried: _Carried,
        generator: torch.Generator | None = None,
    ) -> None:
        # Always the newest, in the same tensors.
        self.carried: _Carried = _mapped(carried)
        # Of the last replay, in the same tensors.
        self.notes: _Notes

        def once() -> None:
            after, self.notes = body(self.carried)
            _put(self.carried, after)

        device = next(part.device for part in parts(carried) if isinstance(part, Tensor))
        self._replay = record(once, device, generator)

    def __call__(self) -> _Notes:
        """Runs the next step; what it noted is overwritten by the one after."""
        self._replay()
        return self.notes


class Growth(NamedTuple):
    """The step from which on a search is captured, and the reason if none is."""

    captured_from: int
    reason: str | None  # why no step is captured


def growth(stepper: Stepper, *, alike: bool = True) -> Growth:
    """Returns the step from which on one graph can serve; max_length if none can.

    Args:
        stepper: of the search.
        alike: False: the search itself does something else at each step.
    """
    own = stepper.constraints
    reason = _why_not(stepper, alike)
    prefix = 0 if own.prefix is None else own.prefix.size(1)
    first = max(1, own.min_length - 1, prefix)
    if reason is None and own.max_length - first < WORTH:
        reason = f"fewer than {WORTH} steps are left"
    return Growth(first if reason is None else own.max_length, reason)


def has_graphs(device: torch.device) -> bool:
    """Returns whether work of a device can be captured here and now."""
    return device.type == "cuda" and not torch.cuda.is_current_stream_capturing()


def record(
    run: Callable[[], None], device: torch.device, generator: torch.Generator | None
) -> Callable[[], None]:
    """Captures what a function launches; returns what launches it again.

    `torch.cuda.graph` would collect garbage and empty the allocator's cache, which takes longer
    than many a search.
    """
    with torch.cuda.device(device):
        return _capture(run, _pool(torch.cuda.current_device()), generator).replay


def _capture(
    run: Callable[[], object], pool: Any, generator: torch.Generator | None = None
) -> torch.cuda.CUDAGraph:
    graph = torch.cuda.CUDAGraph()
    if generator is not None:
        graph.register_generator_state(generator)
    here, aside = torch.cuda.current_stream(), torch.cuda.Stream()
    aside.wait_stream(here)
    collecting = gc.isenabled()
    # What the collector frees may be a graph, and that is not allowed during a capture.
    gc.disable()
    try:
        with torch.cuda.stream(aside):
            graph.capture_begin(pool, capture_error_mode="thread_local")
            try:
                run()
            finally:
                graph.capture_end()
    finally:
        if collecting:
            gc.enable()
    here.wait_stream(aside)
    return graph


def _pool(device: int) -> Any:
    """Memory that the graphs of this thread share; a graph that does nothing keeps it."""
    held: dict[int, torch.cuda.CUDAGraph] | None = getattr(_pools, "held", None)
    if held is None:
        held = _pools.held = {}
    if device not in held:
        fresh = torch.cuda.graph_pool_handle()
        held[device] = _capture(lambda: torch.zeros((), device="cuda"), fresh)
    return held[device].pool()


def _why_not(stepper: Stepper, alike: bool) -> str | None:
    if not has_graphs(stepper.rows.device):
        return "only CUDA devices have graphs"
    if not alike:
        return "each step does something else"
    if stepper.constraints.no_repeat_ngram:
        return "no_repeat_ngram looks at more tokens at each step"
    if not getattr(stepper.model, "capturable", False):
        reason = f"{type(stepper.model).__name__} does not promise to be capturable"
        _warn(f"fused_rnn: this search runs without a CUDA graph: {reason}")
        return reason
    return None


@cache
def _warn(message: str) -> None:
    warnings.warn(message, RuntimeWarning, stacklevel=2)


def _mapped(value: Any) -> Any:
    """A copy of a structure around copies of its tensors."""
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, Mapping):
        return {key: _mapped(part) for key, part in value.items()}
    if isinstance(value, tuple | list):
        made = [_mapped(part) for part in value]
        return type(value)(*made) if hasattr(value, "_fields") else type(value)(made)
    if is_dataclass(value) and not isinstance(value, type):
        new = {field.name: _mapped(getattr(value, field.name)) for field in fields(value)}
        return replace(value, **new)
    return value


def _put(carried: Any, after: Any) -> None:
    """Copies one structure's tensors into another's."""
    pairs = list(zip(parts(carried), parts(after), strict=True))
    held = {old.untyped_storage().data_ptr() for old, _ in pairs if isinstance(old, Tensor)}
    new: list[tuple[Tensor, Tensor]] = []
    for old, value in pairs:
        if not isinstance(old, Tensor) or not isinstance(value, Tensor):
            if old is not value and old != value:
                raise ValueError(f"state: expected {old!r} at every step, got {value!r}")
        elif old.shape != value.shape or old.dtype != value.dtype:
            was, got = (f"{t.dtype} {tuple(t.shape)}" for t in (old, value))
            raise ValueError(f"state: expected {was} at every step, got {got}")
        elif old is not value:
            # One may become another: all are read before any is written.
            aliased = value.untyped_storage().data_ptr() in held
            new.append((old, value.clone() if aliased else value))
    for old, value in new:
        old.copy_(value)
