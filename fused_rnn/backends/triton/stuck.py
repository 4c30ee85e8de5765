# SPDX-License-Identifier: MIT
"""Waits that ran out: a kernel writes so to memory of the host, where the next call finds it.

Nothing is copied and nobody waits for the device, and kernels that a CUDA graph replays tell too.
"""

import functools
from typing import NamedTuple

import torch
from torch import Tensor

# Launches that differ further are told of as one.
_MOST = 1024
_REST = "a shape past the first ones"


class _Word(NamedTuple):
    tensor: Tensor  # (1,): zero, or the number of a launch
    seen: memoryview  # the same memory
    names: dict[str, int]


@functools.cache
def _word() -> _Word:
    """Returns the word in host memory that tells of waits, made at the first launch that waits."""
    pinned = torch.cuda.is_available()
    tensor = torch.zeros(1, dtype=torch.int32, device="cpu", pin_memory=pinned)
    return _Word(tensor, memoryview(tensor.numpy()), {_REST: 1})


def word() -> Tensor:
    """Returns the host memory where a kernel writes its number when a wait ran out, (1,)."""
    return _word().tensor


def number(kernel: str, steps: int, batch: int, count: int, hidden: int) -> int:
    """Returns the number that identifies a launch whose wait may run out."""
    names = _word().names
    name = f"{kernel}, T {steps}, B {batch}, N {count}, H {hidden}"
    if len(names) == _MOST:
        return names.get(name, names[_REST])
    return names.setdefault(name, len(names) + 1)


def check() -> None:
    """Tells once of a wait that ran out.

    Raises:
        RuntimeError: one did, in an earlier call.
    """
    if not _word.cache_info().currsize or not (found := _word().seen[0]):
        return
    _word().seen[0] = 0
    (name,) = (name for name, number in _word().names.items() if number == found)
    raise RuntimeError(
        f"a wait of a Triton kernel ran out in an earlier call, whose results are NaN: {name}"
    )
