#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# What only a GPU can tell, from a bare checkout with PyTorch, nvcc and no network:
#   bench/gpu.sh prepare       here: compiles the kernels into build/carried, which goes along
#   bench/gpu.sh first OUT     six minutes: builds, a process for each form of the kernels, tests,
#                              a table of 48 rows; stops at the first form that is wrong
#   bench/gpu.sh second OUT    six minutes: graphs, two streams, compute-sanitizer, ncu, Triton's
#                              tests, and the CPU kernels at 1 to 16 threads
#   bench/gpu.sh grid OUT      every shape; run it again until it prints no "time is over"
# OUT gets a text, the rows, and all logs as one archive: copied to bench/results, the rows become
# reports by `python -m bench.publish`. ARCHITECTURES names other GPUs than Hopper for `prepare`.
# WHEELS may name a folder of wheels of peers that are not installed (flashrnn, einops).
# FUSED_RNN_REHEARSAL=1 rehearses a part on a machine without a GPU.
set -euo pipefail
cd "$(dirname "$0")/.."
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1 OMP_NUM_THREADS=2
exec "${PYTHON:-python3}" -m bench.gpu_session "$@"
