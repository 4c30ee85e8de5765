# SPDX-License-Identifier: MIT
"""Recurrent modules of PyTorch's that no fused class stands for."""

import torch
from torch import nn

_LAYERS = ("RNN", "GRU", "LSTM")
_NAMES = {
    *(f"{layer}{end}" for layer in _LAYERS for end in ("", "Cell")),
    *("RNNBase", "RNNCellBase"),
}
# As they stand in compiled graphs.
_OPS = {f"aten::{name}" for name in ("rnn_tanh", "rnn_relu", "gru", "lstm")}
_OPS |= {f"{op}_cell" for op in _OPS}


def kind_of(module: nn.Module) -> str | None:
    """The reason why a module counts as a recurrent one of PyTorch's; None where it does not."""
    if isinstance(module, torch.jit.ScriptModule):
        return f"{module.original_name} in TorchScript" if _scripted(module) else None
    for base in type(module).__mro__:
        if base.__name__ in _NAMES and base.__module__.startswith("torch."):
            quantized = "quantiz" in base.__module__
            return "quantised" if quantized else f"derived from torch.nn.{base.__name__} alone"
    return None


def _scripted(module: torch.jit.ScriptModule) -> bool:
    if module.original_name in _NAMES:
        return True
    # Frozen modules have no submodules left.
    inside = module._c
    graphs = [inside._get_method(name).graph for name in inside._method_names()]
    return any(graph.findNode(op) is not None for graph in graphs for op in _OPS)
