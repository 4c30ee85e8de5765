# SPDX-License-Identifier: MIT
"""The states of the generators that dropout draws from, of all processes that train together."""

from __future__ import annotations

import torch
from torch import Tensor

from . import parallel
from .checkpoint import CheckpointError

_HOST, _CUDA = "random", "random-cuda"


def states(device: torch.device) -> dict[str, Tensor]:
    """Returns the states of PyTorch's global generators, by name; all processes must ask.

    Args:
        device: where the model is; on a CUDA device, that one's generator is among them.
    """
    own = {_HOST: torch.get_rng_state()}
    if device.type == "cuda":
        own[_CUDA] = torch.cuda.get_rng_state(device)
    everyones = enumerate(parallel.everyones(own))
    return {_named(name, rank): one for rank, each in everyones for name, one in each.items()}


def restore(tensors: dict[str, Tensor], device: torch.device) -> None:
    """Puts the generators of this process where they were.

    A training that goes on on another kind of device draws anew there.

    Raises:
        CheckpointError: the states are of more or fewer processes.
    """
    processes = sum(name.partition(".")[0] == _HOST for name in tensors)
    rank, size = parallel.world()
    if processes != size:
        raise CheckpointError(
            f"expected the {processes} processes that the checkpoint was trained by, got {size}"
        )
    torch.set_rng_state(tensors[_named(_HOST, rank)])
    own = tensors.get(_named(_CUDA, rank))
    if own is not None and device.type == "cuda":
        torch.cuda.set_rng_state(own, device)


def _named(name: str, rank: int) -> str:
    return name if rank == 0 else f"{name}.{rank}"
