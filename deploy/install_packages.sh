#!/usr/bin/env bash
# Installs what Octavo is built from, on Debian 12 or Ubuntu 24.04. Runs apt only when something is
# missing, so that a second run is instant.
#
#   deploy/install_packages.sh [--tests]
#
# --tests adds what tests/run.sh needs: a second compiler with its sanitizers and fuzzer,
# clang-format, and promtool.
set -euo pipefail

say() { printf '%s\n' "$*" >&2; }
fail() {
  say "install_packages.sh: $*"
  exit 1
}

packages=(
  cmake ninja-build g++ pkg-config
  libgrpc++-dev libprotobuf-dev protobuf-compiler protobuf-compiler-grpc
  libabsl-dev libboost-dev libssl-dev zlib1g-dev
  nlohmann-json3-dev prometheus-cpp-dev
  libgtest-dev libgmock-dev libbenchmark-dev
  python3 python3-venv python3-pip ca-certificates
  wordnet-base
)
test_packages=(clang libclang-rt-dev clang-format prometheus unzip xz-utils)

case "${1:-}" in
  '') ;;
  --tests) packages+=("${test_packages[@]}") ;;
  *) fail "unknown option $1; known is --tests" ;;
esac

if ! command -v apt-get > /dev/null || ! command -v dpkg-query > /dev/null; then
  fail "this is neither Debian nor Ubuntu. What is needed, by Debian's names: ${packages[*]}"
fi

missing=()
for package in "${packages[@]}"; do
  status=$(dpkg-query --show --showformat='${db:Status-Status}' "$package" 2> /dev/null || true)
  [[ $status == installed ]] || missing+=("$package")
done
if ((${#missing[@]} == 0)); then
  say "packages: all ${#packages[@]} installed"
  exit 0
fi

as_root=()
if ((EUID != 0)); then
  command -v sudo > /dev/null ||
    fail "root is needed and there is no sudo. As root: apt-get install ${missing[*]}"
  as_root=(sudo)
fi

# Starting a service belongs to its user: of the package prometheus only promtool is wanted.
policy=/usr/sbin/policy-rc.d
made_policy=
cleanup() {
  if [[ -n $made_policy ]]; then "${as_root[@]}" rm -f "$policy"; fi
}
trap cleanup EXIT
if [[ " ${missing[*]} " == *' prometheus '* && ! -e $policy ]]; then
  made_policy=yes
  printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee "$policy" > /dev/null
  "${as_root[@]}" chmod 755 "$policy"
fi

say "packages: installing ${missing[*]}"
apt() {
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0 "$@" >&2
}
apt update || say "packages: apt-get update failed; trying with the lists there are"
apt install --yes --no-install-recommends "${missing[@]}" ||
  fail "apt-get could not install: ${missing[*]}
This script is for Debian 12 and Ubuntu 24.04 (with 'universe' enabled)."
if [[ -n $made_policy ]] && command -v systemctl > /dev/null; then
  "${as_root[@]}" systemctl disable --quiet prometheus > /dev/null 2>&1 || true
fi
say "packages: installed"
