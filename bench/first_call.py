# SPDX-License-Identifier: MIT
"""Seconds until the Triton kernels of a layer are ready: `python -m bench.first_call CELL HIDDEN`.

Forward and backward of one layer, in a process that has compiled nothing before.
"""

import os
import subprocess
import sys
import tempfile
import time

import torch

from bench import machine

# What they should stay below.
READY = 5.0


def measure(cell: str, hidden: int) -> float:
    """Seconds in a process of its own, with an empty cache of compiled kernels.

    Raises:
        RuntimeError: that process failed; the message is its last line.
    """
    with tempfile.TemporaryDirectory() as folder:
        ran = subprocess.run(
            [sys.executable, "-m", "bench.first_call", cell, str(hidden)],
            cwd=machine.ROOT,
            env=os.environ | {"TRITON_CACHE_DIR": folder},
            capture_output=True,
            text=True,
            check=False,
        )
    if ran.returncode:
        raise RuntimeError((ran.stderr.strip().splitlines() or ["no message"])[-1])
    return float(ran.stdout)


def main() -> None:
    import fused_rnn

    cell, hidden = sys.argv[1], int(sys.argv[2])
    made = dict(backend="triton", device="cuda", dtype=torch.bfloat16)
    layers = {"lstm": fused_rnn.FusedLSTM, "gru": fused_rnn.FusedGRU}
    layer = layers[cell](hidden, hidden, **made)
    x = torch.randn(64, 16, hidden, device="cuda", dtype=torch.bfloat16)
    torch.cuda.synchronize()
    start = time.perf_counter()
    layer(x)[0].sum().backward()
    torch.cuda.synchronize()
    print(time.perf_counter() - start)


if __name__ == "__main__":
    main()
