#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# torchrl 0.14.1: at a step that is_init marks, LSTMModule and GRUModule begin from the state that is
# stored there in recurrent mode, and from zeros when they run a step at a time.
#
# One batch of 2 x 5 steps with random stored states, is_init at step 0 of both rows and step 3 of
# the first. Step by step (recurrent_mode=False), the features of a marked step are those of a zero
# state, whatever is stored. In recurrent mode they are those of the stored state at every marked
# step, the first one included: the same data give other features while training than while
# collecting. The two agree where zeros are stored, as after a reset by the module's own primer.
#
# Exits with 1 if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet torch==2.13.0 torchrl==0.14.1 tensordict==0.14.3
cat > "$folder/seen.py" <<'PY'
import importlib.metadata
import sys

import torch
from tensordict import TensorDict
from torchrl.modules import GRUModule, LSTMModule, set_recurrent_mode

print(*(f"{p} {importlib.metadata.version(p)}" for p in ("torch", "torchrl", "tensordict")))
torch.manual_seed(0)
marks = torch.zeros(2, 5, 1, dtype=torch.bool)
marks[:, 0] = marks[0, 3] = True
changed = []
for kind in (LSTMModule, GRUModule):
    module = kind(input_size=3, hidden_size=4, in_key="x", out_key="y")
    states = {key: torch.randn(2, 5, 1, 4) for key in module.in_keys[1:-1]}
    data = TensorDict({"x": torch.randn(2, 5, 3), "is_init": marks, **states}, [2, 5])
    zeros = data.clone()
    for key in states:
        zeros[key] = torch.where(marks.unsqueeze(-1), 0.0, zeros[key])
    with torch.no_grad():
        with set_recurrent_mode(True):
            trained, from_zeros = module(data.clone())["y"], module(zeros.clone())["y"]
        with set_recurrent_mode(False):
            first, later = (module(data[:, t].clone())["y"] for t in (0, 3))
    steps = torch.stack([first[0], first[1], later[0]])
    at_marks = [torch.stack([y[0, 0], y[1, 0], y[0, 3]]) for y in (trained, from_zeros)]
    apart, zero = ((steps - own).abs().max().item() for own in at_marks)
    print(f"{kind.__name__}: steps differ from recurrent mode by {apart:.3f} at marks,")
    print(f"  by {zero:.1e} where zeros are stored there")
    if not (apart > 0.01 and zero < 1e-5):
        changed.append(kind.__name__)
if changed:
    sys.exit(f"changed: {changed}")
PY
"$folder/env/bin/python" -W ignore "$folder/seen.py"
echo "as seen before"
