# SPDX-License-Identifier: MIT
"""The number of bfloat16 products for one of float32 on the CPU, as torch's settings have it.

torch.set_float32_matmul_precision writes torch.backends.mkldnn.matmul.fp32_precision; recurrent
layers have a setting of their own, torch.backends.mkldnn.rnn.fp32_precision, which goes before it.
Where one is "none", wider ones count: torch.backends.mkldnn's, then torch.backends'.
"""

import sys

import torch
from torch import Tensor

# All else that fp32_precision may be is of six: "ieee" and, where no setting says anything, "none".
_PRODUCTS = {"tf32": 3, "bf16": 1}
# Without the Python property around it, which dynamo would trace and not guard.
_setting = torch._C._get_fp32_precision_getter
_SELF = sys.modules[__name__]


def products_of(x: Tensor) -> int:
    """The number of products a layer over x takes now: 6, 3 or 1 for float32 on the CPU, else 6."""
    products = _products()
    # The tensor is asked last, which costs as much again.
    return products if products == 6 or _heeds(x) else 6


def traced_products_of(x: Tensor) -> int:
    """The number of products in code that torch.compile traces, and again when the setting changes.

    torch.export bakes in the setting of its time.
    """
    # An attribute of a module: dynamo takes it for a constant, guarded by reading it again.
    return int(_SELF.products) if _heeds(x) else 6


def _heeds(x: Tensor) -> bool:
    return x.dtype is torch.float32 and x.is_cpu


def _products() -> int:
    name = _setting("mkldnn", "rnn")
    if name == "none":
        name = _setting("mkldnn", "matmul")
    return _PRODUCTS.get(name, 6)


def __getattr__(name: str) -> str:
    """The `products` of each access, as a string, since dynamo may make integers symbols."""
    if name == "products":
        return str(_products())
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
