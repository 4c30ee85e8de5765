#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# flax 0.12.8: in linen.RNN a row of length 0 returns the carry of the last padded step.
#
# linen.RNN(GRUCell) over (2, 5, 3) with return_carry=True and seq_lengths [0, 3], padded with
# sevens. Row 1 is right: its carry is that of its third step, whatever the padding holds. Row 0 has no
# step, and should return the carry it began with, zeros. Seen: the carry after all five steps of
# padding, the same as with seq_lengths [5, 3]; with reverse=True, too.
# The index of a row's last step is its length less one, and -1 is the last of all.
#
# Exits with 1 if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet flax==0.12.8 jax==0.10.2
cat > "$folder/seen.py" <<'PY'
import sys

import flax
import jax
import jax.numpy as jnp
from flax import linen

print("flax", flax.__version__, "jax", jax.__version__)
x = jax.random.normal(jax.random.key(0), (2, 5, 3)).at[0].set(7.0).at[1, 3:].set(7.0)
changed = []
for reverse in (False, True):
    rnn = linen.RNN(linen.GRUCell(4), return_carry=True, reverse=reverse)
    variables = rnn.init(jax.random.key(1), x)
    empty, _ = rnn.apply(variables, x, seq_lengths=jnp.array([0, 3]))
    whole, _ = rnn.apply(variables, x, seq_lengths=jnp.array([5, 3]))
    other, _ = rnn.apply(variables, x.at[1, 3:].set(-7.0), seq_lengths=jnp.array([0, 3]))
    print("reverse", reverse, "carry of the empty row", empty[0], "of five steps", whole[0])
    same = bool(jnp.array_equal(empty[0], whole[0])) and bool(jnp.any(empty[0] != 0))
    right = bool(jnp.array_equal(empty[1], other[1]))
    if not (same and right):
        changed.append(reverse)
if changed:
    sys.exit(f"changed: reverse in {changed}")
PY
"$folder/env/bin/python" "$folder/seen.py"
echo "as seen before"
