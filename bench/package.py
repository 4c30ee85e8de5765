# SPDX-License-Identifier: MIT
"""Modules of this package that the timing of a tree needs, by the names that the tree has for them.

`bench.run --base` times older trees with the files of this one.
"""

from importlib import import_module
from typing import Any


def _first(*names: str) -> Any:
    """The first of some modules that there is."""
    *others, last = names
    for name in others:
        try:
            return import_module(name)
        except ModuleNotFoundError:
            continue
    return import_module(last)


choice = _first("fused_rnn.backends.choice", "fused_rnn.backends")
Query = _first("fused_rnn.backends.backend", "fused_rnn.backends").Query
extensions = _first("fused_rnn.extensions", "fused_rnn.native")
