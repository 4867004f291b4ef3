#!/usr/bin/env bash
# Compiles the kernels for NVIDIA cards to PTX, the oldest cards' portable code: check-ptx.sh TARGET
#
# What CUDA's compiler refuses or warns of, the C++ compiler of the emulated card may pass. TARGET is cargo's
# folder. NVIDIA's compiler is fetched there if it is not there yet (scripts/cuda-toolkit.sh); where that cannot be
# done, nothing is checked, which is said and is no failure. What was checked once is not checked again.
set -euo pipefail
cd "$(dirname "$0")/.."

target=${1:?name the folder that cargo builds in}
flags=(-ptx -std=c++17 -O3 -arch=compute_80 -Werror all-warnings)
work=$target/ptx
mkdir -p "$work"

state=$(cat crates/cuda/kernels/* scripts/cuda-toolkit.sh scripts/check-ptx.sh | sha256sum)
if [ "$(cat "$work/checked" 2> /dev/null)" = "$state" ]; then
  echo "kernels: their PTX was checked before"
  exit 0
fi

# Where there is no network, that is to be found out soon.
export PIP_RETRIES=1 PIP_DEFAULT_TIMEOUT=15
if ! scripts/cuda-toolkit.sh "$target/cuda/toolkit" > "$work/log" 2>&1; then
  echo "skipped: the kernels were not compiled to PTX, because $(tail -n 1 "$work/log")"
  exit 0
fi

began=$(date +%s)
rm -f "$work"/*.ptx "$work"/*.said
# A file's words are kept apart from the others', and a warning that is none for -Werror counts as well.
compile() {
  name=$(basename "$1" .cu)
  "$2" "${@:3}" -o "$work/$name.ptx" "$1" > "$work/$name.said" 2>&1 && [ ! -s "$work/$name.said" ]
}
export -f compile
export work
# The longest first, so that the last one is short.
if ! ls -S crates/cuda/kernels/*.cu \
  | xargs -P "$(nproc)" -I {} bash -c 'compile "$@"' compile {} "$target/cuda/toolkit/bin/nvcc" "${flags[@]}"; then
  echo "compiling the kernels to PTX failed:" >&2
  cat "$work"/*.said >&2
  exit 1
fi

entries=$(cat "$work"/*.ptx | grep -c '\.entry ' || true)
echo "kernels: $entries in $(ls "$work"/*.ptx | wc -l) files compile to PTX, in $(($(date +%s) - began)) s"
echo "$state" > "$work/checked"
