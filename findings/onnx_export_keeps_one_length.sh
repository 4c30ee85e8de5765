#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# PyTorch 2.13.0: torch.onnx.export leaves the number of steps open in a model that runs at one only.
#
# torch.onnx.export(nn.LSTM(3, 5), (randn(4, 6, 3),), dynamo=True) with both leading dimensions
# Dim.DYNAMIC ends without an error, and the model's input is declared with two symbols. Seen in
# onnxruntime 1.32.0:
#   (4, 6, 3), the example's size     runs
#   (4, 2, 3), another batch          runs
#   (9, 6, 3), another number of steps   fails: outputs are reshaped to (4, -1, 5)
# nn.GRU of two layers does the same. So a check of the exported model at the example's size, or over
# batches, says nothing of the dimension that recurrent models are exported for.
#
# Exits with 1 if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet \
  torch==2.13.0 onnx==1.23.2 onnxscript==0.7.2 onnxruntime==1.32.0 numpy
cat > "$folder/seen.py" <<'PY'
import io
import sys
import warnings

import onnxruntime
import torch
from torch import nn

warnings.simplefilter("ignore")
print("torch", torch.__version__, "onnxruntime", onnxruntime.__version__)
both = ({0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC},)
for layer in (nn.LSTM(3, 5), nn.GRU(3, 5, 2)):
    program = torch.onnx.export(
        layer.eval(), (torch.randn(4, 6, 3),), dynamo=True, dynamic_shapes=both, verbose=False
    )
    data = io.BytesIO()
    program.save(data)
    session = onnxruntime.InferenceSession(
        data.getvalue(), providers=["CPUExecutionProvider"]
    )
    (given,) = session.get_inputs()
    print(layer, "input", given.shape)
    runs = []
    for size in ((4, 6, 3), (4, 2, 3), (9, 6, 3)):
        try:
            session.run(None, {given.name: torch.randn(size).numpy()})
            runs.append(True)
        except Exception as error:
            print(size, "fails:", str(error).splitlines()[-1][-90:])
            runs.append(False)
    symbols = all(isinstance(size, str) for size in given.shape[:2])
    if not symbols or runs != [True, True, False]:
        sys.exit(f"changed: open {symbols}, runs {runs}")
PY
"$folder/env/bin/python" "$folder/seen.py"
echo "as seen before"
