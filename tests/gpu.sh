#!/usr/bin/env bash
# `make gpu`: all GPU tests, then every GPU benchmark, then a short table. Needs only a python3 that has torch and the
# other dependencies; softbench itself is run from the checkout. Records go to $OUT.
set -uo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
OUT=${OUT:-results/local}
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
mkdir -p "$OUT"

"$PYTHON" -c 'import sys, torch; sys.exit(0 if torch.cuda.is_available() else "torch finds no CUDA device here: nothing was run.")' || exit 1
"$PYTHON" -m softbench env > "$OUT/gpu-env.txt"

"$PYTHON" -m pytest tests/gpu -p no:cacheprovider -q | tee "$OUT/gpu-tests.txt"
tests=$?
if [ "$tests" -ne 0 ]; then
  echo "GPU tests failed: no speed is measured until they pass." >&2
  exit "$tests"
fi

failed=0
sweep() {  # name, measure, flags...
  local name=$1 measure=$2
  shift 2
  "$PYTHON" -m softbench "$measure" --device cuda --out "$OUT/gpu-$name.jsonl" --plot "$OUT/gpu-$name.png" "$@" || failed=$?
}
"$PYTHON" -m softbench roofline --device cuda --force --out "$OUT/gpu-roofline.jsonl" || failed=$?
"$PYTHON" tests/gpu/speed.py "$OUT/gpu-speed.jsonl" | tee "$OUT/gpu-speed.txt" || failed=$?
for impl in triton eager; do
  for mode in forward forward_backward; do
    sweep "backbone-$impl-$mode" latency --model soft-tiny --image 224 --batch 128 --dtype bfloat16 --impl $impl --mode $mode
  done
done
ALL=soft,soft_norm,gaussian,performer,linformer,nystromformer
sweep forward latency --attn $ALL --dtype bfloat16 --batch 8 --tokens 1k..16k --timeout 20
sweep training latency --attn $ALL --dtype bfloat16 --batch 8 --tokens 1k..16k --mode forward_backward --timeout 20
sweep float32 latency --attn $ALL --tokens 1k..16k --timeout 20
sweep memory memory --attn $ALL --dtype bfloat16 --batch 8 --tokens 1k..16k --mode forward_backward --timeout 20
exit "$failed"
