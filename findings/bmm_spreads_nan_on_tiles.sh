#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# PyTorch 2.13.0 on a CPU with AMX: a NaN in one row of a bfloat16 batch product reaches the row before.
#
# In a batch of products (2, 17, 33) by (33, 8), all else zeros and ones, row 8 of each begins with
# NaN. By arithmetic row 8 of the results is NaN and no other. Seen, rows that hold NaN:
#   torch.matmul, (2, 17, 33) by (2, 33, 8), bfloat16   7 and 8
#   the same in float16, in float32, and of one matrix  8
#   the same where oneDNN is kept from AMX (ONEDNN_MAX_CPU_ISA=AVX512_CORE_BF16)   8
# The inner size must be odd and above 32: pairs of numbers are multiplied, and the partner of a row's
# last number is the first of the next row, times zero, which is NaN where that is. So the rows of
# a batch depend on one another where one of them holds what is to be masked later.
#
# Exits with 1 if that changes, with 2 where the processor has no AMX: nothing to see.
set -euo pipefail
if ! grep -q amx_bf16 /proc/cpuinfo; then
  echo "this processor has no AMX: nothing to see"
  exit 2
fi
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet torch==2.13.0 numpy
cd "$folder"
cat > seen.py <<'PY'
import sys

import torch

print("torch", torch.__version__, "on", torch.backends.cpu.get_cpu_capability())


def rows_of_nan(dtype, single=False):
    a, b = torch.zeros(2, 17, 33, dtype=dtype), torch.ones(2, 33, 8, dtype=dtype)
    a[:, 8, 0] = float("nan")
    result = torch.mm(a[0], b[0])[None] if single else torch.matmul(a, b)
    return sorted(set(result.isnan().any(-1).nonzero()[:, 1].tolist()))


tiled = sys.argv[1] == "tiles"
seen = {
    "bfloat16": rows_of_nan(torch.bfloat16),
    "float16": rows_of_nan(torch.float16),
    "float32": rows_of_nan(torch.float32),
    "one bfloat16 matrix": rows_of_nan(torch.bfloat16, single=True),
}
print(sys.argv[1], seen)
if list(seen.values()) != [[7, 8] if tiled else [8], [8], [8], [8]]:
    sys.exit("changed: not what was seen before")
PY
"$folder/env/bin/python" seen.py tiles
ONEDNN_MAX_CPU_ISA=AVX512_CORE_BF16 "$folder/env/bin/python" seen.py "without tiles"
echo "as seen before"
