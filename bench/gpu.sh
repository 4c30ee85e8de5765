#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# What only a GPU can tell, in parts of at most eight minutes, from a bare checkout with PyTorch,
# nvcc and no network:
#   bench/gpu.sh PART OUTDIR
# build    compiles the extensions for this machine's GPU and runs the tests that need one
# quick    the most telling shapes: the CUDA kernels, the Triton kernels and their peers
# stress   many launches, two streams; compute-sanitizer where the machine lets it run
# grid     every shape; run it again until it prints no "time is over"
# Each part prints its table last. Logs go to OUTDIR, rows to OUTDIR/gpu-PART.jsonl: copied to
# bench/results, `python -m bench.publish` makes reports of them.
# WHEELS may name a folder of wheels of peers that are not installed (flashrnn, einops).
set -euo pipefail
part=${1:?usage: bench/gpu.sh build|quick|stress|grid OUTDIR}
out=${2:?usage: bench/gpu.sh build|quick|stress|grid OUTDIR}
cd "$(dirname "$0")/.."
mkdir -p "$out"
out=$(cd "$out" && pwd)
export PYTHONPATH=$PWD PYTHONUNBUFFERED=1
python=${PYTHON:-python3}
failed=()

# Seconds of the eight minutes that are left, or as many as one command may take.
most=470
left() {
  local rest=$((SECONDS < 465 ? 470 - SECONDS : 5))
  echo $((rest < most ? rest : most))
}

build() {
  # Only this GPU's architecture: a third of the time.
  local capability
  capability=$($python -c 'import torch; print("%d%d" % torch.cuda.get_device_capability())' \
    2>"$out/build.log") || { tail -1 "$out/build.log"; return 1; }
  [[ $capability == 90 || $capability == 100 ]] && capability+=a
  timeout "$(left)" make -C csrc/cuda -j16 NVCC="${CUDA_HOME:-/usr/local/cuda}/bin/nvcc" \
    BUILD="$PWD/build/cuda" ARCHITECTURES="$capability" >"$out/nvcc.log" 2>&1 ||
    { tail -50 "$out/nvcc.log"; return 1; }
  FUSED_RNN_CUDA=1 timeout "$(left)" $python setup.py -q build_ext --inplace >"$out/build.log" 2>&1 ||
    { tail -50 "$out/build.log"; return 1; }
}

# check NAME PYTEST-ARGUMENTS...: its output goes to NAME.log, a failure is remembered.
check() {
  local name=$1
  shift
  timeout "$(left)" $python -m pytest -q --tb=line -p no:cacheprovider "$@" \
    >"$out/$name.log" 2>&1 || failed+=("$name")
}

# The tests of the Triton kernels, a process for each cell: what takes time is compilation.
triton() {
  local apart='not first_call and not shared_with' shard
  declare -A shards=(
    [triton-tanh]=rnn_tanh [triton-relu]=rnn_relu [triton-lstm]=lstm
    [triton-gru]='gru and not gru_reset_before' [triton-textbook]=gru_reset_before
    [triton-rest]='not rnn_ and not lstm and not gru'
  )
  for shard in "${!shards[@]}"; do
    (
      check "$shard" tests/test_triton_device.py -k "(${shards[$shard]}) and $apart"
      ((${#failed[@]} == 0))
    ) &
    jobs[$!]=$shard
  done
}

# verdicts NAME...: why each failed, then a line for each.
verdicts() {
  local name
  for name in "$@"; do grep -hE '^(FAILED|ERROR)|Error' "$out/$name.log" | head -20 || true; done
  for name in "$@"; do printf '%-16s %s\n' "$name" "$(tail -1 "$out/$name.log")"; done
}

# The rows of one part, then its table, even where time ran out in the middle of a case.
measure() {
  local folder=${WHEELS:-wheels} wheel
  for wheel in "$folder"/*.whl; do
    if [[ -e $wheel ]]; then $python -m zipfile -e "$wheel" "$out/peers"; fi
  done
  PYTHONPATH+=:$out/peers timeout "$(left)" $python -m bench.gpu "$part" "$out" \
    --seconds $(($(left) - 60)) || failed+=(measure)
  $python -m bench.gpu_report "$out/gpu-$part.jsonl"
}

case $part in
  build)
    # Nothing that was compiled before.
    TRITON_CACHE_DIR=$(mktemp -d)
    export TRITON_CACHE_DIR
    declare -A jobs=()
    triton
    build || failed+=(build)
    check cuda tests/test_cuda_device.py -m 'not long'
    check applications tests/test_search_graphs.py tests/test_language_model.py -k on_a_gpu
    for job in "${!jobs[@]}"; do wait "$job" || failed+=("${jobs[$job]}"); done
    check both tests/test_triton_device.py -k shared_with
    check first-call tests/test_triton_device.py -k first_call
    rm -rf "$TRITON_CACHE_DIR"
    verdicts cuda applications both "${jobs[@]}" first-call
    ;;
  quick | grid)
    $python -c 'import torch, fused_rnn._C_cuda' 2>/dev/null || build ||
      echo "the CUDA kernels are not built, see $out"
    measure
    ;;
  stress)
    $python -c 'import torch, fused_rnn._C_cuda' 2>/dev/null || build
    check stress tests/test_cuda_device.py -m long
    names=(stress) most=120
    sanitizer=$(command -v compute-sanitizer || echo "${CUDA_HOME:-/usr/local/cuda}/bin/compute-sanitizer")
    if [[ -x $sanitizer ]]; then
      for tool in memcheck racecheck synccheck; do
        python="$sanitizer --tool $tool --error-exitcode 1 ${PYTHON:-python3}" \
          check $tool tests/test_cuda_device.py \
          -k 'test_every_option and (lstm or gru) and resets and bf16'
        names+=("$tool")
      done
    else
      echo "compute-sanitizer is not installed"
    fi
    verdicts "${names[@]}"
    ;;
  *) echo "PART: expected build, quick, stress or grid, got $part" >&2 && exit 2 ;;
esac
if ((${#failed[@]})); then
  echo "failed or out of time: ${failed[*]}"
  exit 1
fi
