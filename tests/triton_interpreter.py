# SPDX-License-Identifier: MIT
"""Triton's interpreter, made to run this package's kernels on CPU tensors.

To import in a process of its own, started with TRITON_INTERPRET=1: Triton reads that when a kernel
is defined, and no kernel of such a process compiles.
"""

from typing import Any

import numpy as np
import triton.language as tl
from triton.runtime import interpreter

from fused_rnn import triton as backend

_Builder = interpreter.InterpreterBuilder
_create_dot, _patch_lang_tensor = _Builder.create_dot, interpreter._patch_lang_tensor


def _widened(operand: Any) -> Any:
    if operand.dtype.scalar != tl.bfloat16:
        return operand
    values = (operand.data.astype(np.uint32) << 16).view(np.float32)
    return interpreter.TensorHandle(values, tl.float32)


def _dot(builder: Any, a: Any, b: Any, *rest: Any) -> Any:
    # Triton 3.6 multiplies the bits of bfloat16 operands as if they were integers.
    return _create_dot(builder, _widened(a), _widened(b), *rest)


def _patch_tensor(tensor: Any, scope: Any) -> None:
    _patch_lang_tensor(tensor, scope)
    # NumPy 2.4 no longer takes an array of one element for a number, as Triton 3.6 wants it to
    # for the bounds of a loop.
    scope.set_attr(tensor, "__index__", lambda number: number.handle.data.item())


_Builder.create_dot = _dot
interpreter._patch_lang_tensor = _patch_tensor

# The ops of the backend take CPU tensors as long as this lives.
LIBRARY = backend.register("CPU")
