# SPDX-License-Identifier: MIT
"""torch.nn's names of recurrent layers and cells, led to the fused classes for a while."""

import sys
from threading import RLock
from types import ModuleType, TracebackType
from typing import Any

from torch import nn

from .fuse import FUSED

_MODULES = (nn, nn.modules, nn.modules.rnn)
# torch.compile refuses whatever it finds to be one of torch.nn's layers; fused ones must not be.
_COMPILER = "torch._dynamo.variables.builder"


def _led(name: str, plain: type, fused: type) -> property:
    """The attribute `name` of a patched module."""

    def get(module: ModuleType) -> Any:
        found = vars(module)[name]
        by_compiler = sys._getframe(1).f_globals.get("__name__") == _COMPILER
        return fused if found is plain and not by_compiler else found

    def put(module: ModuleType, value: Any) -> None:
        # Someone else's patch inside this one, or its end, which puts back what it found.
        vars(module)[name] = plain if value is fused else value

    return property(get, put)


# A module's own class, as what stands in the module itself would be seen by torch.nn's code, too.
_Patched: Any = type(
    "PatchedModule",
    (ModuleType,),
    {plain.__name__: _led(plain.__name__, plain, fused) for plain, fused in FUSED.items()},
)
_open: set["TorchNNPatch"] = set()
_lock = RLock()


class TorchNNPatch:
    """A patch of torch.nn, which lasts until it is removed or its context is left."""

    def __init__(self) -> None:
        with _lock:
            _open.add(self)
            for module in _MODULES:
                module.__class__ = _Patched

    def remove(self) -> None:
        """Takes this patch away; with the last one torch.nn's names lead to its own classes."""
        with _lock:
            _open.discard(self)
            if not _open:
                for module in _MODULES:
                    module.__class__ = ModuleType

    def __enter__(self) -> "TorchNNPatch":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.remove()


def patched_torch_nn() -> TorchNNPatch:
    """A patch under which torch.nn's RNN, GRU, LSTM and cells are the fused classes.

    For packages that build their layers themselves, and build them anew when they load a model.
    As a context, `with patched_torch_nn():`, it ends there; as a plain call it lasts until the
    `remove()` of what it returns. Patches may overlap; the last to end gives torch.nn back.

    The names are those of torch.nn, torch.nn.modules and torch.nn.modules.rnn, for all threads of
    the process and for no other process. Not seen is who took a name before (`from torch.nn import
    LSTM`), and subclasses defined before; who takes one inside keeps it. Inside, torch.nn's own
    layers, made before, are no instances of these names, pickle cannot save them, and
    `super(nn.LSTM, self)` is another step up.
    """
    return TorchNNPatch()
