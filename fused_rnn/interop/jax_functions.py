# SPDX-License-Identifier: MIT
"""Checks of the functions that JAX's cells are given for their gates and states."""

from __future__ import annotations

from typing import Any

from .recurrences import refuse


def check_function(name: str, function: Any, *expected: str) -> str:
    """The name of a function of `jax.nn`.

    Raises:
        ValueError: it is none of the expected ones.
    """
    import jax

    for known in expected:
        if function is getattr(jax.nn, known):
            return known
    got = getattr(function, "__name__", repr(function))
    raise refuse(name, " or ".join(expected), got)
