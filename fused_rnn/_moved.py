# SPDX-License-Identifier: MIT
"""Names of modules before they were put in folders, by which older pickles hold their classes."""

import sys
from importlib import import_module

# By the package that is loaded whole when its names are kept.
_MOVED = {
    "fused_rnn": {
        "modules": "nn.layers",
        "cells": "nn.cells",
        "linear": "nn.linear",
        "stored": "nn.quantization.stored",
        "quantized": "nn.quantization.quantized",
        "subclasses": "nn.conversion.subclasses",
    },
    "fused_rnn.seq2seq": {
        "attention": "models.attention",
        "decoder": "models.decoder",
        "encoder": "models.encoder",
        "ensemble": "models.ensemble",
        "interfaces": "models.interfaces",
        "language_model": "models.language_model",
        "translator": "models.translator",
    },
}


def keep_names(package: str) -> None:
    """Lets imports find a package's modules by their earlier names, too."""
    for before, now in _MOVED[package].items():
        module = import_module(f"{package}.{now}")
        sys.modules[f"{package}.{before}"] = module
        setattr(sys.modules[package], before, module)
