# SPDX-License-Identifier: MIT
"""The reference backend: every cell in plain PyTorch, on any device, in any floating type."""

from ..backend import Backend
from .cells import STEPS, State
from .layer import reference_layer
from .products import INTEGERS
from .varied import varied_layer

__all__ = [
    "INTEGERS",
    "REFERENCE",
    "STEPS",
    "State",
    "reference_layer",
    "varied_layer",
]

REFERENCE = Backend("reference", lambda query: None, run=reference_layer)
