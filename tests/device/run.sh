#!/usr/bin/env bash
# Checks the CUDA backend on a GPU. The last lines say what failed and what was skipped, by name,
# and how many passed; a row of a kernel table that no test ran is a failure.
#   programs  the test programs that loop over backends (programs.py)
#   check     the kernels against float64, from Python
#   sanitize  compute-sanitizer, memcheck and racecheck, over some of the programs' tests
#   bench     the kernels' times beside cuBLASLt and PyTorch
#
#   tests/device/run.sh [PART...]      by default all four
#
# Needs a Hopper GPU and Python with PyTorch; sanitize needs CUDA's compute-sanitizer. BUILD names
# the build directory; by default build/cuda, which is built first if it does not exist. A machine
# without our libraries gets a folder that pack.sh made elsewhere: run the run.sh in it. PYTHON
# names the interpreter; OCTAVO_MODEL, a directory of all-MiniLM-L6-v2, is for tests of real text.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=${PYTHON:-python3}
parts=("$@")
if [[ ${#parts[@]} == 0 ]]; then parts=(programs check sanitize bench); fi
for part in "${parts[@]}"; do # before any of them starts
  case $part in
    programs | check | sanitize | bench) ;;
    *)
      echo "run.sh: there is no part $part; the head of this script lists them" >&2
      exit 2
      ;;
  esac
done

if [[ -e $here/liboctavo_cuda_kernels_c.so ]]; then # made by pack.sh
  build=$here
  library=$here/liboctavo_cuda_kernels_c.so
  export LD_LIBRARY_PATH=$here/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
else
  root=$(cd "$here/../.." && pwd)
  build=${BUILD:-$root/build/cuda}
  if [[ ! -e $build ]]; then
    cmake -S "$root" -B "$build" -DCMAKE_BUILD_TYPE=Release -DOCTAVO_CUDA=ON
    cmake --build "$build" -j"$(nproc)"
  fi
  library=$build/tests/device/liboctavo_cuda_kernels_c.so
fi

results=$(mktemp) # outcome, name, reason, separated by tabs
trap 'rm -f "$results"' EXIT
run() { # what it is called, then the command
  local name=$1
  shift
  if ! "$@"; then printf 'failed\t%s\tended early\n' "$name" >> "$results"; fi
}
families() { # check or bench
  for family in linear_a8w8 linear_a16w4_int4 attention rows; do
    run "$family: $1" "$python" "$here/$family.py" "$1" "$library" "$results"
  done
}
# What is not timed runs side by side; what is, alone and last.
bench=
for part in "${parts[@]}"; do
  case $part in
    programs) run programs "$python" "$here/programs.py" test "$build" "$results" & ;;
    sanitize) run sanitize "$python" "$here/programs.py" sanitize "$build" "$results" & ;;
    check) families check & ;;
    bench) bench=1 ;;
  esac
done
wait
if [[ -n $bench ]]; then families bench; fi

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
