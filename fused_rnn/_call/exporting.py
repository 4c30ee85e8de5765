# SPDX-License-Identifier: MIT
"""Errors for users who hand fused modules to TorchScript or ONNX, which do not know them."""

from typing import NoReturn

import torch

_ADVICE = "take what fused_rnn.unfuse(model) returns, torch.nn's modules on the same parameters"
_TABLE = "custom_translation_table=fused_rnn.interop.onnx_translations()"

_translated = False


def refuse_script(name: str) -> NoReturn:
    """Raises the RuntimeError of torch.jit.script on a class of this name."""
    raise RuntimeError(f"torch.jit.script cannot compile {name}: {_ADVICE}")


def refuse_onnx() -> None:
    """Raises RuntimeError during an export to ONNX that does not know the layers' ops."""
    if to_foreign_onnx():
        raise RuntimeError(
            "torch.onnx.export has no operator for fused kernels: "
            f"with dynamo=True, pass {_TABLE}; or {_ADVICE}"
        )


def knows_onnx() -> None:
    """Notes that exports to ONNX that trace as torch.export does now have our translations."""
    global _translated
    _translated = True


def to_foreign_onnx() -> bool:
    """Whether an export to ONNX is under way that does not know the layers' ops."""
    by_torchscript = torch._C._is_tracing()
    return torch.onnx.is_in_onnx_export() and (by_torchscript or not _translated)


# What torch.compiler.assume_constant_result does, without the import of the compiler: traced
# code would take the answer for False.
to_foreign_onnx._dynamo_marked_constant = True  # type: ignore[attr-defined]
