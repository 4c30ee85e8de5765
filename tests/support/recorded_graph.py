# SPDX-License-Identifier: MIT
"""A stand-in for CUDA graphs on the CPU: records the operators of a function, and runs them again.

As on a GPU, nothing that the function computed while it was recorded is there afterwards, a
replay reads and writes the very tensors of the recording, and asking for a value, or bringing one
from the host, is an error. What it cannot see: streams, the allocator, a real capture's own rules.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_WAITS = ("_local_scalar_dense", "item", "nonzero", "equal", "lift_fresh")


def _tensors(values: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


class _Recorder(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, dict[int, Tensor]]] = []
        self.made: dict[int, Tensor] = {}
        self.before: dict[int, tuple[Tensor, Tensor]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func._schema.name.partition("::")[2] in _WAITS:
            raise RuntimeError(f"{func} makes the host wait for the device")
        inputs = _tensors((args, kwargs))
        if func._schema.is_mutable:
            for tensor in inputs:
                if _storage(tensor) not in self.made:
                    self.before.setdefault(_storage(tensor), (tensor, tensor.clone()))
        result = func(*args, **kwargs)
        known = {_storage(tensor) for tensor in inputs}
        results = enumerate(_tensors(result))
        fresh = {place: tensor for place, tensor in results if _storage(tensor) not in known}
        self.made.update({_storage(tensor): tensor for tensor in fresh.values()})
        self.calls.append((func, args, kwargs, fresh))
        return result


def record(
    run: Callable[[], None], device: torch.device, generator: torch.Generator | None
) -> Callable[[], None]:
    """`graphs.record` for the CPU."""
    own = generator or torch.default_generator
    drawn, recorder = own.get_state(), _Recorder()
    with recorder:
        run()
    own.set_state(drawn)
    for tensor, value in recorder.before.values():
        tensor.copy_(value)
    for tensor in recorder.made.values():
        # A value no result has.
        tensor.fill_(0 if tensor.dtype == torch.bool else 7)

    def replay() -> None:
        for func, args, kwargs, fresh in recorder.calls:
            again = _tensors(func(*args, **kwargs))
            for place, tensor in fresh.items():
                tensor.copy_(again[place])

    return replay
