# SPDX-License-Identifier: MIT
"""What `fused_rnn.interop` promises: the other framework's numbers to 1e-5, in float32.

Not the one rule of our own kernels: other libraries approximate the gates' functions.
"""

from torch import Tensor

PROMISE = 1e-5


def check(own: Tensor, other: Tensor) -> None:
    assert own.shape == other.shape, (own.shape, other.shape)
    difference = (own - other).abs().max().item()
    assert difference <= PROMISE, difference
