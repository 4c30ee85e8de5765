# SPDX-License-Identifier: MIT
"""Drop-in RNN, GRU and LSTM for PyTorch with fused kernels for the whole sequence."""

from . import flops, functional
from .backends import use_backend
from .cells import FusedGRUCell, FusedLSTMCell, FusedRNNCell
from .fuse import explain, fuse, unfuse
from .modules import FusedGRU, FusedLSTM, FusedRNN
from .patching import patched_torch_nn
from .prepacking import prepacked
from .quantization import quantize

__all__ = [
    "FusedGRU",
    "FusedGRUCell",
    "FusedLSTM",
    "FusedLSTMCell",
    "FusedRNN",
    "FusedRNNCell",
    "explain",
    "functional",
    "fuse",
    "patched_torch_nn",
    "prepacked",
    "quantize",
    "unfuse",
    "use_backend",
]

flops.register()
