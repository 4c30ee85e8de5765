#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# PyTorch 2.13.0 on a CPU: FlopCounterMode counts no product of torch.nn.LSTM, unless its rows end apart.
#
# The counter has formulas for matrix products and asks none of an operator it does not know: that
# counts as 0, without a warning. nn.GRU and nn.RNN run as products, nn.LSTM as one operator of oneDNN
# (mkldnn_rnn_layer), unless it is given rows of unlike length. Seen, of 5 inputs and 11 units, in
# FLOPs forward, beside 2 * gates * H * (I + H) * rows:
#   LSTM (7, 3, 5)                           0    (29,568)
#   LSTM packed, lengths 7, 7, 7             0    (29,568)
#   LSTM packed, lengths 7, 4, 2        18,304    (18,304)
#   GRU  (7, 3, 5)                      22,176    (22,176)
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
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence
from torch.utils.flop_counter import FlopCounterMode

x = torch.randn(7, 3, 5)
lstm, gru = nn.LSTM(5, 11), nn.GRU(5, 11)
cases = {
    "LSTM": (lstm, x),
    "LSTM packed, equal lengths": (lstm, pack_padded_sequence(x, [7, 7, 7])),
    "LSTM packed, lengths 7, 4, 2": (lstm, pack_padded_sequence(x, [7, 4, 2])),
    "GRU": (gru, x),
}
print("torch", torch.__version__)
seen = []
for name, (layer, given) in cases.items():
    with FlopCounterMode(display=False) as counter:
        layer(given)
    seen.append(counter.get_total_flops())
    print(f"{name:<29} {seen[-1]}")
if seen != [0, 0, 18304, 22176]:
    sys.exit("changed: not what was seen before")
print("as seen before")
PY
