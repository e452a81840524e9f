#!/usr/bin/env bash
# `make test-cpus`: the numerical tests as three kinds of CPU compute them, as far as this one can. torch's kernels and
# MKL's products take other paths on each, and no test may pass by the rounding of one. These are the tests of what
# computes with torch; the others read, print, draw and start processes, which is alike on all, the Triton interpreter
# computes with NumPy, and what inductor compiles asks neither.
set -uo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
NUMERICAL=(tests/ops tests/attention tests/models tests/inputs tests/subjects/test_workload.py
           tests/studies/test_{pinv,pinv_facts,matrices,approx_error_numbers}.py -k "not triton and not test_kernels"
           --ignore-glob='*/test_triton_*' --ignore=tests/attention/test_compiled.py
           --ignore=tests/attention/test_one_file.py --ignore=tests/models/test_timm_use.py)
export OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive
best=$("$PYTHON" -c 'import torch; print(torch.backends.cpu.get_cpu_capability().lower())') || exit 1
failed=0 beyond=
for kind in default:COMPATIBLE avx2:AVX2 avx512:AVX512; do
  export ATEN_CPU_CAPABILITY=${kind%:*} MKL_CBWR=${kind#*:}
  echo "${beyond:+skipped, as the best of this CPU is $best: }ATEN_CPU_CAPABILITY=$ATEN_CPU_CAPABILITY MKL_CBWR=$MKL_CBWR"
  [ -n "$beyond" ] || "$PYTHON" -m pytest -q --benchmark-skip -n auto --dist worksteal -m "not quiet" "${NUMERICAL[@]}" "$@" ||
    failed=$?
  [ "$best" != "$ATEN_CPU_CAPABILITY" ] || beyond=yes
done
exit "$failed"
