# SPDX-License-Identifier: MIT
"""Checks an installed wheel: the named kind of build answers, away from the source tree."""

import sys
import sysconfig
import warnings
from pathlib import Path

import torch

import fused_rnn


def main(kind: str) -> None:
    """Runs a forward and a backward on the backend that a wheel of this kind must have."""
    home = Path(fused_rnn.__file__).resolve()
    assert home.is_relative_to(Path(sysconfig.get_path("platlib")).resolve()), home
    backend = "native" if kind == "native" else "reference"
    layer = fused_rnn.FusedGRU(5, 7, backend=backend)
    output, state = layer(torch.randn(3, 2, 5))
    assert output.shape == (3, 2, 7) and state.shape == (1, 2, 7)
    output.sum().backward()
    assert all(weight.grad is not None for weight in layer.parameters())
    if kind == "pure":
        try:
            fused_rnn.FusedGRU(5, 7, backend="native")(torch.randn(3, 2, 5))
        except RuntimeError as error:
            print("native, as it should, says:", error)
        else:
            raise AssertionError("a pure Python wheel ran a native kernel")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fused_rnn.FusedGRU(5, 7)(torch.randn(3, 2, 5))
    print(f"{kind} wheel: fine ({home})")


if __name__ == "__main__":
    main(sys.argv[1])
