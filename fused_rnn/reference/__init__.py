# SPDX-License-Identifier: MIT
"""The reference backend: every cell in plain PyTorch, on any device, in any floating type."""

from .cells import STEPS, State
from .layer import layer
from .products import INTEGERS

__all__ = ["INTEGERS", "STEPS", "State", "layer"]
