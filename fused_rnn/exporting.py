# SPDX-License-Identifier: MIT
"""What those are told who hand fused modules to TorchScript or ONNX, which do not know them."""

from typing import NoReturn

import torch

_ADVICE = "take what fused_rnn.unfuse(model) returns, torch.nn's modules on the same parameters"


def refuse_script(name: str) -> NoReturn:
    """Raises the RuntimeError of torch.jit.script on a class of this name."""
    raise RuntimeError(f"torch.jit.script cannot compile {name}: {_ADVICE}")


def refuse_onnx() -> None:
    """Raises RuntimeError during an export to ONNX, which has no operator for the kernels."""
    if to_onnx():
        raise RuntimeError(f"torch.onnx.export has no operator for fused kernels: {_ADVICE}")


def to_onnx() -> bool:
    """Whether an export to ONNX is under way."""
    return torch.onnx.is_in_onnx_export()


# What torch.compiler.assume_constant_result does, without the import of the compiler: traced
# code would take the answer for False.
to_onnx._dynamo_marked_constant = True  # type: ignore[attr-defined]
