# SPDX-License-Identifier: MIT
"""The compiled extension: whether it is there, how it was built, which instructions it uses."""

from importlib import import_module
from types import ModuleType

import torch

from . import ops  # noqa: F401  # the schemas come before the kernels

_C: ModuleType | None
_REASON: str | None = None
try:
    _C = import_module("fused_rnn._C")
except ImportError as error:
    _C = None
    _REASON = f"the extension fused_rnn._C cannot be loaded ({error})"
else:
    # Only OpenMP promises that all parts of a parallel region run at once, which kernels that
    # meet at barriers need; elsewhere they run on one thread.
    _C.set_concurrent_regions("ATen parallel backend: OpenMP" in torch.__config__.parallel_info())


def why_unavailable() -> str | None:
    """Returns why the compiled kernels cannot run here, or None if they can."""
    return _REASON


def build_info() -> dict[str, str]:
    """Returns how the extension was built; empty without one."""
    return {} if _C is None else dict(_C.build_info())


def instruction_sets() -> list[str]:
    """Returns the instruction sets this machine runs, the fastest first."""
    return [] if _C is None else list(_C.instruction_sets())


def instruction_set() -> str:
    """Returns the instruction set in use.

    Raises:
        RuntimeError: there is no extension.
    """
    return str(_loaded().instruction_set())


def set_instruction_set(name: str) -> None:
    """Makes every later call use one instruction set.

    Args:
        name: one of `instruction_sets()`.

    Raises:
        ValueError: this machine does not run it.
        RuntimeError: there is no extension.
    """
    _loaded().set_instruction_set(name)


def _loaded() -> ModuleType:
    if _C is None:
        raise RuntimeError(_REASON)
    return _C
