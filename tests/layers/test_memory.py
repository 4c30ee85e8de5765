# SPDX-License-Identifier: MIT
"""What forward passes save lies in memory that is used again: never too early, never too much."""

import subprocess
import sys

import torch
from cases import need
from torch import Tensor

import fused_rnn

# Saves 2.5 MiB: more than what is left to PyTorch's own allocator.
STEPS, BATCH, INPUTS, HIDDEN = 64, 32, 8, 64

GROWTH = """
import resource, torch, fused_rnn

def resident():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

layer = fused_rnn.FusedLSTM(8, 128)
layer(torch.randn(390, 64, 8))
before = resident()
for steps in range(30, 390, 6):  # 5 to 62 MiB, 2 GiB together
    layer(torch.randn(steps, 64, 8))
print(resident() - before)
"""


def gradients(output: Tensor, layer: torch.nn.Module) -> tuple[Tensor, ...]:
    torch.manual_seed(1)
    grads = torch.autograd.grad(
        output, list(layer.parameters()), torch.randn_like(output), retain_graph=True
    )
    return tuple(grad.clone() for grad in grads)


def test_graphs_alive_at_once_keep_what_they_saved() -> None:
    need("native")
    layer = fused_rnn.FusedLSTM(INPUTS, HIDDEN)
    inputs = [torch.randn(STEPS, BATCH, INPUTS) for _ in range(3)]
    alone = [gradients(layer(x)[0], layer) for x in inputs]
    outputs = [layer(x)[0] for x in inputs]
    for _ in range(2):
        for output, expected in zip(reversed(outputs), reversed(alone), strict=True):
            for found, grad in zip(gradients(output, layer), expected, strict=True):
                assert torch.equal(found, grad)


def test_memory_does_not_grow_with_the_number_of_shapes() -> None:
    need("native")
    run = subprocess.run([sys.executable, "-c", GROWTH], capture_output=True, text=True, check=True)
    # At most 256 MiB are kept; the rest is what one call needs besides.
    assert float(run.stdout) < 384
