# SPDX-License-Identifier: MIT
"""Drop-in RNN, GRU and LSTM for PyTorch with fused kernels for the whole sequence."""

from . import _moved, functional
from .backends.choice import use_backend
from .nn.cells import FusedGRUCell, FusedLSTMCell, FusedRNNCell
from .nn.fuse import explain, fuse, unfuse
from .nn.layers import FusedGRU, FusedLSTM, FusedRNN
from .nn.patching import patched_torch_nn
from .nn.prepacking import prepacked
from .nn.quantization.quantize import quantize
from .nn.slstm import FusedSLSTM
from .ops import flops

__all__ = [
    "FusedGRU",
    "FusedGRUCell",
    "FusedLSTM",
    "FusedLSTMCell",
    "FusedRNN",
    "FusedRNNCell",
    "FusedSLSTM",
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
_moved.keep_names(__name__)
