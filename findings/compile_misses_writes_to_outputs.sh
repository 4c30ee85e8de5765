#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# PyTorch 2.13.0 on a CPU: a compiled function whose output is written in place gives a wrong gradient.
#
# exp keeps its result for the backward pass. Written in place, eager code says so in backward ("one
# of the variables needed for gradient computation has been modified by an inplace operation"), and
# compiled code does too, if the function returns that result itself. If it returns a view of it, as
# squeeze makes one, the write goes unnoticed. Seen, of y = f(x); y *= 3; y.sum().backward():
#   f                  eager    compiled by aot_eager and by inductor
#   exp(x)             error    error
#   exp(x).squeeze(-2) error    no error, the gradient three times too large
# The same holds for any operation whose backward pass reads its own result.
#
# Exits with 1 if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet torch==2.13.0 numpy
cd "$folder"
"$folder/env/bin/python" - <<'PY'
import sys

import torch

FUNCTIONS = {
    "exp(x)": lambda x: torch.exp(x),
    "exp(x).squeeze(-2)": lambda x: torch.exp(x).squeeze(-2),
}


def outcome(function, backend):
    torch._dynamo.reset()
    x = torch.randn(3, 1, 4, requires_grad=True)
    y = (torch.compile(function, backend=backend) if backend else function)(x)
    y *= 3
    try:
        y.sum().backward()
    except RuntimeError as error:
        return "error" if "inplace operation" in str(error) else str(error)
    ratio = x.grad / (3 * x.detach().exp())
    return f"{ratio.min():.1f} to {ratio.max():.1f} of the gradient"


print("torch", torch.__version__)
seen = {
    (name, backend): outcome(function, backend)
    for name, function in FUNCTIONS.items()
    for backend in (None, "aot_eager", "inductor")
}
for (name, backend), what in seen.items():
    print(f"{name:<19} {backend or 'eager':<10} {what}")
wrong = "3.0 to 3.0 of the gradient"
expected = ["error"] * 4 + [wrong] * 2
if list(seen.values()) != expected:
    sys.exit("changed: not what was seen before")
print("as seen before")
PY
