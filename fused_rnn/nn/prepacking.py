# SPDX-License-Identifier: MIT
"""Weights packed once for many calls, which a call of few steps cannot afford for itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from operator import is_
from threading import RLock
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from .. import extensions
from .._call.functorch import records_gradient, transformed
from ..backends import choice


@dataclass
class _Kept:
    """The record of a module's weights and their packed copies while contexts hold it."""

    weights: list[Tensor]
    versions: list[int]
    packs: list[Tensor]
    holders: int

    def check(self, weights: Sequence[Tensor]) -> None:
        """Raises RuntimeError unless the packs are of these weights."""
        if not all(map(is_, weights, self.weights)) or _versions(weights) != self.versions:
            raise RuntimeError(
                "weights: expected those that the open context of fused_rnn.prepacked keeps a "
                "copy of, got others; change weights outside of it"
            )


# By module, so that neither copies nor saved modules carry any.
_kept: WeakKeyDictionary[nn.Module, _Kept] = WeakKeyDictionary()
# Entered again where the garbage collector closes a context inside.
_lock = RLock()


class Prepackable(nn.Module):
    """A module whose CPU kernels can take weights packed beforehand."""

    # As the constructor's argument of that name, where there is one.
    backend = "auto"

    def _weights(self) -> list[Tensor]:
        """The weights, as its kernels take them."""
        raise NotImplementedError

    def _can_prepack(self) -> bool:
        """Whether there is an op for packed weights of such a module."""
        return True

    def _prepack(self, weights: Sequence[Tensor]) -> list[Tensor]:
        """The packed weights, one tensor of bytes a layer."""
        raise NotImplementedError

    def _held(self) -> _Kept | None:
        """The record that an open context keeps of this module, or None."""
        if torch.compiler.is_compiling() or not _kept:
            return None
        return _kept.get(self)

    def _packs(self, weights: Sequence[Tensor], *inputs: Tensor) -> list[Tensor] | None:
        """The packed weights, where a context keeps them and this call can do with them.

        Raises:
            RuntimeError: they were kept of other weights.
        """
        kept = self._held()
        # Autocast computes with weights of another dtype.
        if kept is None or weights[0].dtype != kept.weights[0].dtype:
            return None
        kept.check(weights)
        if transformed() or records_gradient(*inputs, *weights):
            return None
        return kept.packs if _takes_packs(choice.asked_for(self.backend)) else None

    def _explain_packed(self) -> None:
        """Ends a call that `explain` makes and packed weights serve."""
        if choice.is_explaining():
            raise choice.Explained("native runs this\n  on weights that `prepacked` keeps")


def _takes_packs(backend: str) -> bool:
    """Whether packed weights may serve a layer for which this backend, or "auto", is asked."""
    return backend == "auto" or choice.BACKENDS[backend].takes_prepacked


@contextmanager
def prepacked(model: nn.Module) -> Iterator[None]:
    """A context in which the weights of a model are kept as the CPU kernels read them.

    For many calls of one or two steps with the same weights: a decoder, a stream, a policy. Such
    calls otherwise take weights as they lie, since packing costs as much as some eight steps do.
    Longer calls are spared their packing. Fused layers and cells use the copy whenever they run
    on the "native" backend on the CPU and no gradient is recorded; all else, and all other
    modules, runs as ever. The copy takes the memory of the weights once more.

    Weights must not change inside. Writing to one raises an error at the next call; a change that
    PyTorch does not see, through `.data`, in inference mode or in memory shared with others, goes
    unnoticed.

    Args:
        model: any module; those inside it that are parametrized are left alone.
    """
    held: list[tuple[Prepackable, _Kept]] = []
    try:
        with _lock:
            for module in model.modules():
                if isinstance(module, Prepackable) and _suits(module):
                    held.append((module, _hold(module)))
        yield
    finally:
        with _lock:
            for module, kept in held:
                kept.holders -= 1
                if kept.holders == 0:
                    # Gone already, where the garbage collector takes a module and its context.
                    _kept.pop(module, None)


def _suits(module: Prepackable) -> bool:
    if extensions.why_unavailable() is not None or parametrize.is_parametrized(module):
        return False
    if not (_takes_packs(module.backend) and module._can_prepack()):
        return False
    return all(
        isinstance(w, nn.Parameter)
        and w.device.type == "cpu"
        and w.dtype in extensions.DTYPES
        and w.numel() > 0
        for w in module._weights()
    )


def _hold(module: Prepackable) -> _Kept:
    kept = _kept.get(module)
    if kept is None:
        weights = module._weights()
        with torch.no_grad():
            packs = module._prepack([w.contiguous() for w in weights])
        kept = _kept[module] = _Kept(weights, _versions(weights), packs, 0)
    kept.holders += 1
    return kept


def _versions(weights: Sequence[Tensor]) -> list[int]:
    # Those made in inference mode count no changes.
    return [0 if w.is_inference() else w._version for w in weights]
