# SPDX-License-Identifier: MIT
"""Names of modules before they were put in folders, by which older pickles hold their classes."""

import sys
from importlib import import_module

_MOVED = {
    "modules": "nn.layers",
    "cells": "nn.cells",
    "linear": "nn.linear",
    "stored": "nn.quantization.stored",
    "quantized": "nn.quantization.quantized",
    "subclasses": "nn.conversion.subclasses",
}
_MOVED_MODELS = {
    f"seq2seq.{name}": f"seq2seq.models.{name}"
    for name in ("attention", "decoder", "encoder", "ensemble", "interfaces")
} | {f"seq2seq.{name}": f"seq2seq.models.{name}" for name in ("language_model", "translator")}


def keep_layers() -> None:
    """Lets imports find the layers by their modules' earlier names, too."""
    _keep(_MOVED)


def keep_models() -> None:
    """Lets imports find the models of `seq2seq` by their modules' earlier names, too."""
    _keep(_MOVED_MODELS)


def _keep(moved: dict[str, str]) -> None:
    package = __package__
    for before, now in moved.items():
        sys.modules[f"{package}.{before}"] = import_module(f"{package}.{now}")
