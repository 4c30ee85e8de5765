# SPDX-License-Identifier: MIT
"""Recurrent layers of other frameworks as fused layers with the same weights, and the way to ONNX.

Each function imports the framework it names when it is called, and none before. A layer that it
returns gives the framework's outputs and final states; what no fused layer can express is refused
with the name of the attribute.
"""

from .equinox_cells import from_equinox
from .flax_modules import from_flax
from .haiku_params import from_haiku
from .keras_layers import from_keras
from .onnx_export import onnx_translations
from .onnx_models import from_onnx

__all__ = [
    "from_equinox",
    "from_flax",
    "from_haiku",
    "from_keras",
    "from_onnx",
    "onnx_translations",
]
