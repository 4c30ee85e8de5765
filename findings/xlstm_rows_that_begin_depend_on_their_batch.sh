#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# xlstm 2.0.6: a row that begins with an empty state gives NaN beside one that does not.
#
# The sLSTM keeps c and n in units of exp(m). Where nothing has been stored yet, n = 0, m is to begin
# with the input gate itself. The package's PyTorch cell (backend "vanilla") asks that of the whole
# batch at once. Seen, for rows whose input gate stands at -110 and whose cell input is 1, float32:
#   two rows with empty states              0.3808 each, sigmoid(0) * tanh(1)
#   the second beside a row with n = 1      NaN
#   two rows, the first with n = 1, at -50  a number each
# There m is log sigmoid(0) for the empty row too, exp(-110 - m) is zero, and c / n is 0 / 0. So what
# a row gives depends on the others, and where episodes or documents begin inside a batch NaN may
# follow, from gates that are all but shut.
#
# Exits with 1 if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet torch==2.13.0 numpy setuptools
# Its dependencies are for other cells.
"$folder/env/bin/pip" install --quiet --no-deps xlstm==2.0.6 einops packaging
cd "$folder"
cat > seen.py <<'PY'
import sys
from importlib.metadata import version

import torch
from xlstm.blocks.slstm.cell import sLSTMCell, sLSTMCellConfig

print("torch", torch.__version__, "xlstm", version("xlstm"))
config = sLSTMCellConfig(
    hidden_size=2, num_heads=1, backend="vanilla", bias_init="standard", recurrent_weight_init="zeros"
)
cell = sLSTMCell(config)
torch.nn.init.zeros_(cell._bias_)
empty = torch.zeros(4, 2, 2)  # h, c, n and m of two rows
used = empty.clone()
used[1:3, 0] = 1.0


def outputs(gate, states):
    x = torch.zeros(2, 1, 4, 2)  # rows, a step, gates i f z o, units
    x[:, :, 0], x[:, :, 2] = gate, 1.0
    with torch.no_grad():
        y = cell(x.flatten(2), states)[0]
    return [round(one, 4) if one == one else None for one in y[:, 0, 0, 0].tolist()]


seen = {
    "both empty": outputs(-110.0, empty),
    "beside a used one": outputs(-110.0, used),
    "less shut": outputs(-50.0, used),
}
print(seen)
if seen["both empty"] != [0.3808, 0.3808] or seen["beside a used one"][1] is not None:
    sys.exit("changed: not what was seen before")
if seen["less shut"][1] != 0.3808:
    sys.exit("changed: not what was seen before")
PY
"$folder/env/bin/python" seen.py
echo "as seen before"
