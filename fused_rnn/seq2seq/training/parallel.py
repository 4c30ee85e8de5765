# SPDX-License-Identifier: MIT
"""Training shared by several processes: which rows are whose, and what all must agree on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor


class World(NamedTuple):
    """The processes that train together, and which of them this one is."""

    rank: int = 0
    size: int = 1

    @property
    def main(self) -> bool:
        """Whether this process speaks and writes for all."""
        return self.rank == 0


def world() -> World:
    """Returns the processes of the default group; this one alone if there is no group."""
    if dist.is_available() and dist.is_initialized():
        return World(dist.get_rank(), dist.get_world_size())
    return World()


@contextmanager
def launched() -> Iterator[World]:
    """Joins the processes that `torchrun` has started, if it has, and leaves them at the end."""
    if not (dist.is_available() and dist.is_torchelastic_launched()):
        yield World()
        return
    dist.init_process_group("gloo")
    try:
        yield world()
    finally:
        dist.destroy_process_group()


def share(rows: Tensor, dim: int = 0) -> Tensor:
    """Returns this process's part of what all have: every size-th row, from its rank on."""
    rank, size = world()
    if size == 1:
        return rows
    index = torch.arange(rank, rows.size(dim), size, device=rows.device)
    return rows.index_select(dim, index)


def collect(part: Tensor, dim: int = 0) -> Tensor:
    """Returns the rows of all processes, as they were before `share` parted them equally."""
    parts = everyones(part)
    return part if len(parts) == 1 else torch.stack(parts, dim + 1).flatten(dim, dim + 1)


def everyones(value: Any) -> list[Any]:
    """Returns what each process gave, by rank."""
    size = world().size
    if size == 1:
        return [value]
    values = [None] * size
    dist.all_gather_object(values, value)
    return values


def total(value: Tensor) -> Tensor:
    """Returns the sum of what each process gave."""
    if world().size > 1:
        dist.all_reduce(value)
    return value


def any_says(flag: bool) -> bool:
    """Returns whether any process says so; all get the same answer."""
    return flag if world().size == 1 else bool(total(torch.tensor(float(flag))) > 0)
