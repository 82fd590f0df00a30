#!/usr/bin/env bash
# Builds Octavo and runs every test, then prints one summary: what failed and what was skipped, by
# name, and as its last line "N passed, N failed, N skipped".
#
#   tests/run.sh [PART...]
#
# Parts, all of them without an argument:
#   format    clang-format over the sources
#   release   every test, then promtool over the metrics of a running server
#   asan      every test under AddressSanitizer and UBSan
#   tsan      quant, kernels, runtime and handlers under ThreadSanitizer (no gRPC)
#   fuzz      every fuzzer, FUZZ_SECONDS (60) each, from its corpus
#
# OCTAVO_DATA, the unpacked evaluation data, is used where it is set; the model is downloaded.
# JOBS (default: the processors) bounds compilers and tests at a time.
set -euo pipefail

say() { printf '%s\n' "$*" >&2; }

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
cache=${XDG_CACHE_HOME:-${HOME:?neither XDG_CACHE_HOME nor HOME is set}/.cache}/octavo
jobs=${JOBS:-$(nproc)}
fuzz_seconds=${FUZZ_SECONDS:-60}

parts=("$@")
if ((${#parts[@]} == 0)); then parts=(format release asan tsan fuzz); fi
for part in "${parts[@]}"; do
  case "$part" in
    format | release | asan | tsan | fuzz) ;;
    *)
      say "tests/run.sh: no part is called $part; known are format release asan tsan fuzz"
      exit 2
      ;;
  esac
done

work=$(mktemp -d)
server=
cleanup() {
  if [[ -n $server ]]; then kill -TERM "$server" 2> /dev/null || true; fi
  rm -rf "$work"
}
trap cleanup EXIT
results=$work/results # outcome, name, reason, separated by tabs
: > "$results"
passed() { printf 'passed\t%s\t\n' "$1" >> "$results"; }
failed() { printf 'failed\t%s\t%s\n' "$1" "${2:-}" >> "$results"; }
skipped() { printf 'skipped\t%s\t%s\n' "$1" "${2:-}" >> "$results"; }
heading() { say "==> $* ($SECONDS s)"; }

set_up() {
  heading "Set-up"
  deploy/install_packages.sh --tests
  OCTAVO_MODEL=$(deploy/fetch_model.sh all-MiniLM-L6-v2 | tail -n 1)
  export OCTAVO_MODEL
  local venv=$cache/tests-python stamp
  stamp=$(sha256sum tests/requirements.txt)
  if [[ ! -x $venv/bin/python || $(cat "$venv/stamp" 2> /dev/null) != "$stamp" ]]; then
    say "python: installing tests/requirements.txt into $venv"
    if python3 -m venv --clear "$venv" &&
      "$venv/bin/python" -m pip --disable-pip-version-check install --quiet \
        --requirement tests/requirements.txt >&2; then
      printf '%s\n' "$stamp" > "$venv/stamp"
    else
      say "python: the packages could not be installed; the tests that need them say so"
    fi
  fi
  if [[ -x $venv/bin/python ]]; then export OCTAVO_PYTHON=$venv/bin/python; fi
  export OCTAVO_PYTHON=${OCTAVO_PYTHON:-python3}
  if [[ -z ${OCTAVO_DATA:-} ]]; then
    say "OCTAVO_DATA is not set: tests that need the evaluation data are skipped"
  fi
}

# build PRESET TARGET...: its own output when it fails, one result either way.
build() {
  local preset=$1 configure=(--preset "$1")
  shift
  heading "Build: $preset"
  if command -v ccache > /dev/null; then
    configure+=(-DCMAKE_CXX_COMPILER_LAUNCHER=ccache)
  fi
  if cmake "${configure[@]}" > "$work/configure.log" 2>&1 &&
    cmake --build "build/$preset" --parallel "$jobs" "$@" > "$work/build.log" 2>&1; then
    passed "$preset: build"
    return 0
  fi
  tail -n 60 "$work/configure.log" >&2
  if [[ -e $work/build.log ]]; then grep -v '^\[.*Building\|Linking' "$work/build.log" >&2 || true; fi
  failed "$preset: build" "see the compiler's messages above"
  return 1
}

# run_ctest PRESET [COMMAND PREFIX...]
run_ctest() {
  local preset=$1
  shift
  heading "Tests: $preset"
  rm -rf "$work/gtest"
  mkdir "$work/gtest"
  GTEST_OUTPUT=xml:$work/gtest/ "$@" ctest --test-dir "build/$preset" --parallel "$jobs" \
    --output-on-failure --no-tests=error --output-junit "$work/junit.xml" >&2 || true
  if [[ -s $work/junit.xml ]]; then
    python3 tests/collect_results.py "$work/junit.xml" "$work/gtest" "$preset" >> "$results"
  else
    failed "$preset: ctest" "it left no results"
  fi
  rm -f "$work/junit.xml"
}

# The text format of a running server, and the alerting rules.
run_promtool() {
  heading "promtool"
  local name='release: promtool check metrics' ready=
  if ! command -v promtool > /dev/null; then
    skipped "$name" "promtool is not installed"
    return
  fi
  build/release/service/octavo-server --model="$OCTAVO_MODEL" --listen=127.0.0.1:0 \
    --metrics_listen=127.0.0.1:0 --port_file="$work/ports.json" --drain_grace_seconds=0 \
    > /dev/null 2> "$work/server.log" &
  server=$!
  for _ in $(seq 600); do
    if grep -q SERVING "$work/server.log"; then
      ready=yes
      break
    fi
    kill -0 "$server" 2> /dev/null || break
    sleep 0.1
  done
  if [[ -n $ready ]] && python3 - "$work/ports.json" > "$work/metrics.txt" << 'PYTHON'; then
import json, sys, urllib.request
with open(sys.argv[1], encoding="ascii") as file:
    port = json.load(file)["metrics_port"]
sys.stdout.write(urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics").read().decode())
PYTHON
    if promtool check metrics < "$work/metrics.txt" >&2; then passed "$name"; else failed "$name"; fi
  else
    cat "$work/server.log" >&2
    failed "$name" "the server did not start"
  fi
  kill -TERM "$server" 2> /dev/null || true
  wait "$server" || failed "release: octavo-server ends cleanly on SIGTERM" "status $?"
  server=
  local rules
  for rules in deploy/prometheus/*.rules.yml; do
    [[ -e $rules ]] || continue
    if promtool check rules "$rules" >&2; then
      passed "release: promtool check rules $rules"
    else
      failed "release: promtool check rules $rules"
    fi
  done
}

run_format() {
  heading "clang-format"
  local version
  version=$(clang-format --version | sed -n 's/.*version \([0-9]*\).*/\1/p')
  # Versions differ in what they make of the same file; one of them has to rule.
  if [[ $version != 14 ]]; then
    skipped "format: clang-format" "version 14 rules, here is ${version:-none}"
    return
  fi
  if git ls-files -z '*.cc' '*.h' '*.cu' '*.cuh' |
    xargs -0 clang-format --dry-run --Werror >&2; then
    passed "format: clang-format"
  else
    failed "format: clang-format" "run clang-format -i on the files above"
  fi
}

# One fuzzer; its new inputs stay in the cache and are where the next run begins.
run_fuzzer() {
  local program=$1 name found
  name=$(basename "$program")
  found=$cache/fuzz/$name
  mkdir -p "$found"
  if timeout $((fuzz_seconds + 120)) "$program" -max_total_time="$fuzz_seconds" -timeout=20 \
    -rss_limit_mb=3072 -print_final_stats=1 -artifact_prefix="$found-failed-" \
    "$found" "tests/fuzz/corpus/$name" > "$work/$name.log" 2>&1; then
    say "    $name: $(sed -n 's/^stat::number_of_executed_units: //p' "$work/$name.log") runs"
    passed "fuzz: $name"
  else
    tail -n 60 "$work/$name.log" >&2
    failed "fuzz: $name" "the input is $found-failed-*"
  fi
}

run_fuzz() {
  build fuzz --target fuzzers || return 0
  heading "Fuzzers, $fuzz_seconds s each"
  local programs=() program
  for program in build/fuzz/tests/fuzz/*_fuzz; do
    if [[ -x $program ]]; then programs+=("$program"); fi
  done
  if ((${#programs[@]} == 0)); then
    failed "fuzz: no fuzzer was built"
    return 0
  fi
  for program in "${programs[@]}"; do
    while (($(jobs -rp | wc -l) >= 2)); do wait -n || true; done
    run_fuzzer "$program" &
  done
  wait
}

run_tsan() {
  build tsan || return 0
  # ThreadSanitizer's address layout does not bear much randomization.
  local prefix=()
  if setarch "$(uname -m)" -R true 2> /dev/null; then prefix=(setarch "$(uname -m)" -R); fi
  TSAN_OPTIONS=${TSAN_OPTIONS:-halt_on_error=1} run_ctest tsan "${prefix[@]}"
}

summarize() {
  local outcome
  for outcome in skipped failed; do
    if grep -q "^$outcome" "$results"; then
      printf '%s:\n' "${outcome^}"
      awk -F '\t' -v want="$outcome" \
        '$1 == want {print "  " $2 ($3 == "" ? "" : " (" $3 ")")}' "$results"
    fi
  done
  awk -F '\t' '{count[$1]++}
    END {printf "%d passed, %d failed, %d skipped\n", count["passed"], count["failed"], count["skipped"]}' \
    "$results"
  ! grep -q '^failed' "$results"
}

set_up
for part in "${parts[@]}"; do
  case "$part" in
    format) run_format ;;
    release) if build release; then
      run_ctest release
      run_promtool
    fi ;;
    asan) if build asan; then
      UBSAN_OPTIONS=${UBSAN_OPTIONS:-print_stacktrace=1} run_ctest asan
    fi ;;
    tsan) run_tsan ;;
    fuzz) run_fuzz ;;
  esac
done
heading "Summary"
summarize
