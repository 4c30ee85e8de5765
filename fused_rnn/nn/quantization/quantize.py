# SPDX-License-Identifier: MIT
"""Whole models on recurrent weights of 8 or 16 bits, for inference."""

import warnings

from torch import nn
from torch.nn.utils import parametrize

from ..conversion.convertible import Convertible
from ..fuse import FUSED, replaced, warn_left
from ..recurrent import kind_of
from .quantized import QUANTIZED
from .quantized_module import Quantized
from .stored import STORAGES


def quantize(model: nn.Module, weights: str = "int8") -> nn.Module:
    """`model`, with all recurrent layers and cells in it replaced in place by quantized ones.

    Those of torch.nn and of this package are. Their weights are stored once, in fewer bits and as
    the CPU kernels read them: they serve inference only, compute in float32, and need no
    `prepacked`. The `dequantize()` of each is the fused module whose weights these stand for. If
    `model` itself is such a layer, its quantized twin is returned.

    int8: each row of weights is that of integers of at most 127 in magnitude times one scale, that
    of its largest number; so is each row that meets them, an input or a state, as it comes. Sums
    are exact; gates, biases and cell states float32. bfloat16, float16: the nearest numbers, and
    all else in float32.

    Args:
        model: any module, trained.
        weights: what they are stored in: "int8", "bfloat16" or "float16".

    Raises:
        ValueError: `weights` is none of these, or a weight of the model is infinite, no number, or
            too large for the type, or a matrix has more than 133,144 columns in int8, whose sums
            would not fit 32 bits. Nothing is changed then.

    Warns:
        UserWarning: once, with the names and classes of recurrent modules that stay as they are:
            subclasses, parametrized ones, and those this package has no twin of.
    """
    if weights not in STORAGES:
        expected = ", ".join(map(repr, STORAGES))
        raise ValueError(f"weights: expected one of {expected}, got {weights!r}")
    twins: dict[nn.Module, Quantized] = {}
    left: dict[str, str] = {}
    done = False
    for path, module in model.named_modules():
        if isinstance(module, Quantized):
            done = True
            continue
        own = type(module)
        if parametrize.is_parametrized(module) and _is_recurrent(module):
            left[path] = f"{own.__name__}, parametrized: remove that first"
        elif own in QUANTIZED or own in FUSED:
            fused = module if isinstance(module, Convertible) else FUSED[own].from_torch(module)
            twins[module] = QUANTIZED[type(fused)].of(fused, weights)
        elif _is_recurrent(module):
            left[path] = f"{own.__module__}.{own.__qualname__}, which has no quantized twin"
    if left:
        warn_left("quantize", left)
    elif not twins and not done:
        expected = "quantize: expected a model with recurrent modules"
        warnings.warn(f"{expected}, got none in {type(model).__name__}", stacklevel=2)
    return replaced(model, twins)


def _is_recurrent(module: nn.Module) -> bool:
    return isinstance(module, Convertible) or kind_of(module) is not None
