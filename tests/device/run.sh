#!/usr/bin/env bash
# Checks the CUDA kernels on a GPU against float64, then times them beside cuBLASLt and PyTorch. The
# last lines say what failed and what was skipped, by name, and how many passed.
#
# Build, on a machine with nvcc (13.0 is what was tested), which needs no GPU:
#   cmake -S . -B build/cuda -DCMAKE_BUILD_TYPE=Release -DOCTAVO_CUDA=ON
#   cmake --build build/cuda --target octavo_cuda_kernels_c
#
# Run, on a machine with a Hopper GPU, Python and PyTorch; it needs this folder and the library, in
# which the CUDA runtime is:
#   tests/device/run.sh [--check] [LIBRARY]
#
# --check leaves the timing out. LIBRARY is by default the one in build/cuda, or beside this script.
# PYTHON names the interpreter.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
parts=(check bench)
if [[ ${1:-} == --check ]]; then
  parts=(check)
  shift
fi
library=${1:-}
if [[ -z $library ]]; then
  for library in "$here/../../build/cuda/tests/device" "$here"; do
    library=$library/liboctavo_cuda_kernels_c.so
    if [[ -e $library ]]; then break; fi
  done
fi
if [[ ! -e $library ]]; then
  echo "run.sh: there is no $library; the head of this script says how to build it" >&2
  exit 2
fi

results=$(mktemp) # outcome, name, reason, separated by tabs
trap 'rm -f "$results"' EXIT
for part in "${parts[@]}"; do
  for family in linear_a8w8 linear_a16w4_int4 attention rows; do
    if ! "${PYTHON:-python3}" "$here/$family.py" "$part" "$library" "$results"; then
      printf 'failed\t%s: %s\tended early\n' "$family" "$part" >> "$results"
    fi
  done
done

for outcome in skipped failed; do
  if grep -q "^$outcome" "$results"; then
    printf '%s:\n' "${outcome^}"
    awk -F '\t' -v want="$outcome" \
      '$1 == want {print "  " $2 ($3 == "" ? "" : " (" $3 ")")}' "$results"
  fi
done
awk -F '\t' '{count[$1]++}
  END {printf "%d passed, %d failed, %d skipped\n",
    count["passed"], count["failed"], count["skipped"]}' "$results"
! grep -q '^failed' "$results"
