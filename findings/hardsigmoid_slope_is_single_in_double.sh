#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# PyTorch 2.13.0 on CPUs: the gradient of hardsigmoid of float64 is a sixth in float32.
#
# torch.nn.functional.hardsigmoid is relu6(x + 3) / 6, with the slope 1/6 between -3 and 3. Of
# float64 tensors, seen at 0:
#   eager, the gradient                      0.1666666716337204, off by 5e-9
#   the same under torch.compile             0.16666666666666666
#   a difference of the function's values    0.16666666666666666
#   the gradient of hardswish at 1, which has slopes of the kind   5/6 to the last digit
# gradcheck does not see it, at its own tolerance of 1e-6. A float64 gradient that is taken for the
# truth is right to eight digits, and a compiled model does not train as the eager one does.
#
# Exits with 1 if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet torch==2.13.0 numpy setuptools
cd "$folder"
cat > seen.py <<'PY'
import sys

import torch
from torch.nn import functional

print("torch", torch.__version__)


def slope(function, at):
    x = torch.tensor([at], dtype=torch.float64, requires_grad=True)
    function(x).sum().backward()
    return x.grad.item()


one = torch.tensor(1.0, dtype=torch.float64)
seen = {
    "eager": slope(functional.hardsigmoid, 0.0),
    "compiled": slope(torch.compile(functional.hardsigmoid), 0.0),
    "difference": ((functional.hardsigmoid(one) - functional.hardsigmoid(-one)) / 2).item(),
    "hardswish": slope(functional.hardswish, 1.0),
}
print(seen)
single = torch.tensor(1 / 6).item()
exact = all(abs(seen[name] - 1 / 6) < 1e-15 for name in ("compiled", "difference"))
if seen["eager"] != single or not exact or abs(seen["hardswish"] - 5 / 6) > 1e-15:
    sys.exit("changed: not what was seen before")
PY
"$folder/env/bin/python" seen.py
echo "as seen before"
