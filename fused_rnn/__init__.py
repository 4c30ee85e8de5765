# SPDX-License-Identifier: MIT
"""Drop-in RNN, GRU and LSTM for PyTorch with fused kernels for the whole sequence."""

from . import functional
from .backends import use_backend
from .cells import FusedGRUCell, FusedLSTMCell, FusedRNNCell
from .fuse import explain, fuse
from .modules import FusedGRU, FusedLSTM, FusedRNN
from .prepacking import prepacked

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
    "prepacked",
    "use_backend",
]
