#!/bin/sh
# Objects compiled for an instruction set must define no symbol that another object may also define
# (weak or unique: inline functions, template instances): the linker keeps one copy for all, and
# the one compiled for AVX-512 would stop older processors. (The reference to the exception
# personality is data, the same everywhere.) Nor may they have static initializers, which run at
# start-up on any processor.
#
# shared_symbols_test.sh NM OBJECT...: objects whose names hold "_avx" or "_amx" are checked; the others must
# show at least one such symbol, or the check itself does not see them.
set -eu
nm=$1
shift
checked=0
seen_elsewhere=0
status=0
for object in "$@"; do
  shared=$("$nm" -C "$object" | grep -E ' [VWu] |_GLOBAL__sub_I' | grep -v DW.ref.__gxx_personality || true)
  case "$object" in
    *_avx* | *_amx*)
      checked=$((checked + 1))
      if [ -n "$shared" ]; then
        echo "$object defines symbols other objects may share:"
        echo "$shared"
        status=1
      fi
      ;;
    *)
      if [ -n "$shared" ]; then seen_elsewhere=$((seen_elsewhere + 1)); fi
      ;;
  esac
done
echo "$checked objects of instruction sets checked"
[ "$checked" -gt 0 ] || { echo "no such object was given"; exit 1; }
[ "$seen_elsewhere" -gt 0 ] || { echo "no shared symbol seen anywhere: nm is not read right"; exit 1; }
exit $status
