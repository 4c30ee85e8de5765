#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# onnx 1.23.2: the reference evaluator leaves out sequence_lens and clip of LSTM, GRU and RNN.
#
# One node each, X (6, 2, 3), hidden_size 4, sequence_lens [6, 2]. By the operators' definition the
# second row ends after two steps: Y is zero from there on and Y_h is the state of step 2. Seen:
#   onnxruntime 1.32.0   so it is: Y[2:, 0, 1] is zero, and Y_h differs from that without lengths
#   onnx.reference       outputs with and without sequence_lens are equal, bit for bit
# And of clip, which bounds what goes into the gates' functions:
#   onnxruntime          clip=0.1 changes the outputs of all three
#   onnx.reference       outputs with and without clip are equal
# So the evaluator that the format calls its reference is no oracle for either.
#
# Exits with 1 if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet onnx==1.23.2 onnxruntime==1.32.0 numpy
cat > "$folder/seen.py" <<'PY'
import sys

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

print("onnx", onnx.__version__, "onnxruntime", onnxruntime.__version__)
STEPS, BATCH, INPUTS, HIDDEN = 6, 2, 3, 4
random = np.random.default_rng(0)


def model(kind, gates, weights, **attributes):
    lengths = attributes.pop("lengths", False)
    node = helper.make_node(
        kind, ["X", "W", "R", "", "lengths" if lengths else ""], ["Y", "Y_h"],
        hidden_size=HIDDEN, **attributes,
    )
    inputs = [helper.make_tensor_value_info("X", TensorProto.FLOAT, [STEPS, BATCH, INPUTS])]
    if lengths:
        inputs.append(helper.make_tensor_value_info("lengths", TensorProto.INT32, [BATCH]))
    outputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in ("Y", "Y_h")]
    constants = [onnx.numpy_helper.from_array(w, n) for n, w in zip("WR", weights)]
    graph = helper.make_graph([node], "g", inputs, outputs, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)


def by_runtime(made, given):
    session = onnxruntime.InferenceSession(
        made.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(None, given)


def by_reference(made, given):
    return ReferenceEvaluator(made).run(None, given)


def equal(one, other):
    return all(np.array_equal(a, b) for a, b in zip(one, other))


seen = {}
for kind, gates in (("LSTM", 4), ("GRU", 3), ("RNN", 1)):
    weights = [
        random.standard_normal((1, gates * HIDDEN, width)).astype(np.float32)
        for width in (INPUTS, HIDDEN)
    ]
    x = random.standard_normal((STEPS, BATCH, INPUTS)).astype(np.float32)
    lengths = np.array([6, 2], np.int32)
    plain = model(kind, gates, weights)
    ragged = model(kind, gates, weights, lengths=True)
    clipped = model(kind, gates, weights, clip=0.1)
    for name, run in (("onnxruntime", by_runtime), ("onnx.reference", by_reference)):
        whole = run(plain, {"X": x})
        short = run(ragged, {"X": x, "lengths": lengths})
        seen[kind, name] = {
            "lengths change nothing": equal(whole, short),
            "zeros past the length": not short[0][2:, 0, 1].any(),
            "clip changes nothing": equal(whole, run(clipped, {"X": x})),
        }
        print(kind, name, seen[kind, name])
for (kind, name), facts in seen.items():
    if list(facts.values()) != ([False, True, False] if name == "onnxruntime" else [True, False, True]):
        sys.exit(f"changed: {kind} by {name}")
PY
"$folder/env/bin/python" "$folder/seen.py"
echo "as seen before"
