#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Keras 3.15.1: where a row's first step is masked, its backends return different outputs.
#
# layers.GRU(4, return_sequences=True) and LSTM over (1, 3, 2), mask [False, True, True], initial
# states of ones, the same weights. A masked step repeats the output before it; at the first step
# there is none. Seen, output of step 0:
#   KERAS_BACKEND=jax     ones: the initial state
#   KERAS_BACKEND=torch   zeros
# Outputs of the other steps agree. So a model that was trained on one backend and is served on another
# gives other numbers for rows that are padded on the left, if anything reads them.
#
# Exits with 1 if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet keras==3.15.1 jax==0.10.2 torch==2.13.0
cat > "$folder/seen.py" <<'PY'
import sys

import keras
import numpy as np

backend = keras.backend.backend()
print("keras", keras.__version__, "on", backend)
random = np.random.default_rng(0)
x = random.standard_normal((1, 3, 2)).astype("float32")
mask = np.array([[False, True, True]])
for cls, states in ((keras.layers.GRU, 1), (keras.layers.LSTM, 2)):
    layer = cls(4, return_sequences=True)
    layer.build((1, 3, 2))
    layer.set_weights([random.standard_normal(w.shape).astype("float32") for w in layer.weights])
    ones = [np.ones((1, 4), "float32")] * states
    initial = [keras.ops.convert_to_tensor(one) for one in ones]
    found = keras.ops.convert_to_numpy(
        layer(x, mask=keras.ops.convert_to_tensor(mask), initial_state=initial)
    )
    print(cls.__name__, "output of the masked first step", found[0, 0], "of the last", found[0, 2])
    if not (found[0, 0] == (1.0 if backend == "jax" else 0.0)).all():
        sys.exit("changed: not what was seen before")
PY
for backend in jax torch; do
  KERAS_BACKEND=$backend "$folder/env/bin/python" "$folder/seen.py"
done
echo "as seen before"
