#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# pytorch-forecasting 1.8.0: in models.nn.rnn.LSTM a row of length 0 ends in the state of another row.
#
# Its LSTM takes lengths that may be 0 and says that such a row keeps its state. Three rows of four
# steps with given initial states, lengths [4, 0, 2]: row 1 should end in its own h and c. Seen: its
# final h is the initial h of row 0, and its final c the initial *h* of row 0, too. The output of its
# first step is that of a real step over the padding. With no initial state (zeros) both are right.
# The k-th empty row takes those of row k, for masked_scatter reads its source from the start.
#
# Exits with 1 if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet torch==2.13.0 pytorch-forecasting==1.8.0
cat > "$folder/seen.py" <<'PY'
import importlib.metadata
import sys

import torch
from pytorch_forecasting.models.nn.rnn import LSTM

print(*(f"{p} {importlib.metadata.version(p)}" for p in ("torch", "pytorch-forecasting")))
torch.manual_seed(0)
layer = LSTM(2, 3, batch_first=True)
x, lengths = torch.randn(3, 4, 2), torch.tensor([4, 0, 2])
h0, c0 = torch.randn(1, 3, 3), torch.randn(1, 3, 3)
with torch.no_grad():
    y, (h, c) = layer(x, (h0, c0), lengths=lengths, enforce_sorted=False)
    _, (zero_h, zero_c) = layer(x, lengths=lengths, enforce_sorted=False)
print("the empty row: h ends as", h[0, 1], "and began as", h0[0, 1])
print("  c ends as", c[0, 1], "and began as", c0[0, 1])
print("row 0 began with h", h0[0, 0], "; outputs of the empty row", y[1].abs().sum(-1))
seen = [
    torch.equal(h[0, 1], h0[0, 0]),
    torch.equal(c[0, 1], h0[0, 0]),
    bool(y[1, 0].any()) and not y[1, 1:].any(),
    not zero_h[0, 1].any() and not zero_c[0, 1].any(),
]
if not all(seen):
    sys.exit(f"changed: {seen}")
PY
"$folder/env/bin/python" -W ignore "$folder/seen.py"
echo "as seen before"
