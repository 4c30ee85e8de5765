# SPDX-License-Identifier: MIT
"""Whole models on fused layers, and which backend a layer will run on."""

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.rnn import PackedSequence

from . import backends, precision
from .cells import FusedCell, FusedGRUCell, FusedLSTMCell, FusedRNNCell
from .conversion import Convertible
from .layer import FusedLayer
from .modules import FusedGRU, FusedLSTM, FusedRNN

_FUSED: dict[type[nn.Module], type[Convertible]] = {
    fused._torch_class: fused
    for fused in (FusedRNN, FusedGRU, FusedLSTM, FusedRNNCell, FusedGRUCell, FusedLSTMCell)
}


def fuse(model: nn.Module) -> nn.Module:
    """`model`, with every nn.RNN, GRU, LSTM and cell in it replaced in place by its fused twin.

    Parameters, names in the state_dict, mode, hooks and parametrizations stay; a module found at
    several places stays one. If `model` itself is such a layer, its fused twin is returned.
    Instances of subclasses are left alone, as they may compute something else; references that
    are not submodules (in a plain list, say) still lead to the old layer.
    """
    twins: dict[nn.Module, nn.Module] = {}
    for module in model.modules():
        fused = _FUSED.get(parametrize.type_before_parametrizations(module))
        if fused is not None:
            twins[module] = fused.from_torch(module)
    for module in list(model.modules()):
        for name, child in module._modules.items():
            if child in twins:
                module._modules[name] = twins[child]
    return twins.get(model, model)


def explain(module: nn.Module, input: Tensor | PackedSequence) -> str:
    """Which backend `module` would run `input` on now, and what keeps it from the faster ones.

    Raises:
        TypeError: `module` is not a fused layer or cell.
    """
    if not isinstance(module, FusedLayer | FusedCell):
        raise TypeError(f"module: expected a fused layer or cell, got {type(module).__name__}")
    data = input.data if isinstance(input, PackedSequence) else input
    dtype = data.dtype
    if dtype != torch.float64:
        dtype = precision.autocast_dtype(data.device) or dtype
    both = isinstance(module, FusedLayer) and module.bidirectional
    query = backends.Query(
        module._cell(),
        dtype,
        data.device.type,
        (0, 1) if both else (0,),
        projection=bool(getattr(module, "proj_size", 0)),
        shape=(*_steps_and_batch(module, input), module.hidden_size),
    )
    return backends.explain(query, module.backend)


def _steps_and_batch(
    module: FusedLayer | FusedCell, input: Tensor | PackedSequence
) -> tuple[int, int]:
    if isinstance(input, PackedSequence):
        return len(input.batch_sizes), int(input.batch_sizes[0])
    first = input.shape[0] if input.dim() > 1 else 1
    if isinstance(module, FusedCell):
        return 1, first
    second = input.shape[1] if input.dim() > 2 else 1
    return (second, first) if module.batch_first and input.dim() > 2 else (first, second)
