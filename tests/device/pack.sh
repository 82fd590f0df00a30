#!/usr/bin/env bash
# Puts what run.sh needs into a folder, for a machine that has a GPU but not our libraries: the test
# programs and octavo-bench, stripped, the shared libraries they were linked with, the kernels'
# library and the scripts.
#   tests/device/pack.sh BUILD_DIRECTORY FOLDER
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
build=${1:?usage: pack.sh BUILD_DIRECTORY FOLDER}
folder=${2:?usage: pack.sh BUILD_DIRECTORY FOLDER}
programs=(tests/bench/octavo-bench)
for name in attention backend linear plan rows; do
  programs+=("tests/kernels/${name}_test")
done
for name in backends engine forward recording runtime_devices; do
  programs+=("tests/runtime/${name}_test")
done

mkdir -p "$folder/lib"
for program in "${programs[@]}"; do
  cp "$build/$program" "$folder/"
  strip "$folder/${program##*/}"
  # The C library and its loader stay those of the machine.
  ldd "$build/$program" | awk '$2 == "=>" && $3 ~ /^\// {print $3}' |
    grep -vE '/(libc|libm|libdl|librt|libpthread|libresolv)\.so' |
    while read -r library; do cp -uL "$library" "$folder/lib/"; done
done
cp "$build/tests/device/liboctavo_cuda_kernels_c.so" "$folder/"
cp "$here"/*.py "$here/run.sh" "$folder/"
du -sh "$folder"
