#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# What only a GPU can tell, in parts of at most eight minutes, from a bare checkout with PyTorch,
# nvcc and no network:
#   bench/gpu.sh PART OUTDIR
# build    compiles the extensions for this machine's GPU and runs the tests that need one
# quick    the most telling shapes against torch.nn
# stress   many launches, two streams; compute-sanitizer where the machine lets it run
# grid     every shape; run it again until it prints no "time is over"
# Each part prints its table last. Logs and rows go to OUTDIR.
set -euo pipefail
part=${1:?usage: bench/gpu.sh build|quick|stress|grid OUTDIR}
out=${2:?usage: bench/gpu.sh build|quick|stress|grid OUTDIR}
cd "$(dirname "$0")/.."
mkdir -p "$out"
out=$(cd "$out" && pwd)
export PYTHONPATH=$PWD PYTHONUNBUFFERED=1
python=${PYTHON:-python3}

build() {
  # Only this GPU's architecture: a third of the time.
  capability=$($python -c 'import torch; print("%d%d" % torch.cuda.get_device_capability())')
  [[ $capability == 90 || $capability == 100 ]] && capability+=a
  make -C csrc/cuda -j16 NVCC="${CUDA_HOME:-/usr/local/cuda}/bin/nvcc" BUILD="$PWD/build/cuda" \
    ARCHITECTURES="$capability" >"$out/nvcc.log" 2>&1 || { tail -50 "$out/nvcc.log"; exit 1; }
  FUSED_RNN_CUDA=1 $python setup.py -q build_ext --inplace >"$out/build.log" 2>&1 ||
    { tail -50 "$out/build.log"; exit 1; }
}

[[ $part == build ]] || $python -c 'import torch, fused_rnn._C_cuda' 2>/dev/null || build
case $part in
  build)
    build
    $python -m pytest tests/test_cuda_device.py -q -m 'not long' --tb=line 2>&1 | tee "$out/tests.log" | tail -40
    ;;
  quick) timeout 460 $python -m bench.gpu quick "$out" --seconds 400 ;;
  stress)
    $python -m pytest tests/test_cuda_device.py -q -m long --tb=short 2>&1 | tee "$out/stress.log" | tail -15
    sanitizer=$(command -v compute-sanitizer || echo "${CUDA_HOME:-/usr/local/cuda}/bin/compute-sanitizer")
    if [[ -x $sanitizer ]]; then
      for tool in memcheck racecheck synccheck; do
        echo "compute-sanitizer $tool"
        timeout 120 "$sanitizer" --tool $tool --error-exitcode 1 $python -m pytest -q --tb=line \
          tests/test_cuda_device.py -k 'test_every_option and (lstm or gru) and resets and bf16' \
          2>&1 | tee "$out/$tool.log" | tail -4 || echo "$tool: failed or out of time, see $out"
      done
    else
      echo "compute-sanitizer is not installed"
    fi
    ;;
  grid) timeout 475 $python -m bench.gpu grid "$out" --seconds 420 ;;
  *) echo "PART: expected build, quick, stress or grid, got $part" >&2 && exit 2 ;;
esac
