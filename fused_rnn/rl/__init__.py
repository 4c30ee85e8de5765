# SPDX-License-Identifier: MIT
"""Recurrent policies of sb3-contrib and recurrent modules of torchrl, on fused layers."""

from typing import Any

from .policies import FusedRecurrentPolicy, policy

_POLICIES = ("MlpLstmPolicy", "CnnLstmPolicy", "MultiInputLstmPolicy")
_MODULES = ("LSTMModule", "GRUModule")


def __getattr__(name: str) -> Any:
    """The classes that derive from other packages', which are imported when one is asked for."""
    if name in _POLICIES:
        return policy(name)
    if name in _MODULES:
        from . import modules

        return getattr(modules, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [FusedRecurrentPolicy.__name__, *_POLICIES, *_MODULES]
