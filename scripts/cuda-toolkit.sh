#!/usr/bin/env bash
# Makes a CUDA_HOME with NVIDIA's compiler and its headers: cuda-toolkit.sh [FOLDER]
#
# FOLDER is target/cuda/toolkit by default, where the build looks. The parts are NVIDIA's own Python wheels,
# 105 MB, because they come without an installer and without root. They go into an environment below FOLDER,
# and FOLDER/bin, include, nvvm and lib64 are links into it. Can be run again: what is there is kept, what
# broke off goes on with the next part.
#
# 13.0 and not newer: what this compiler makes asks for driver 580, what a newer one makes for a newer driver.
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
folder=${1:-${CARGO_TARGET_DIR:-$root/target}/cuda/toolkit}

parts=(
  nvidia-cuda-nvcc==13.0.88
  nvidia-nvvm==13.0.88
  nvidia-cuda-crt==13.0.88
  nvidia-cuda-runtime==13.0.96
  nvidia-cuda-cccl==13.0.85
)

fail() { echo "making the CUDA toolkit in \`$folder\` failed: $1" >&2; exit 1; }

mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
done_mark=$folder/complete
if [ "$(cat "$done_mark" 2>/dev/null)" = "${parts[*]}" ] && "$folder/bin/nvcc" --version > /dev/null 2>&1; then
  echo "$folder: complete"
  exit 0
fi
rm -f "$done_mark"

environment=$folder/environment
if ! "$environment/bin/python" -m pip --version > /dev/null 2>&1; then
  rm -rf "$environment"
  command -v python3 > /dev/null || fail "there is no python3; install the packages python3 and python3-venv"
  python3 -m venv "$environment" > "$folder/log" 2>&1 \
    || fail "python3 makes no environment; install the package python3-venv ($(tail -n 1 "$folder/log"))"
fi

# One part at a time, so that one that is there is not fetched again.
for part in "${parts[@]}"; do
  echo "fetching $part"
  "$environment/bin/python" -m pip install --quiet --no-deps --only-binary :all: --disable-pip-version-check \
    "$part" 2> "$folder/log" \
    || fail "\`$part\` could not be fetched; it needs a network and the Python package index: $(tail -n 1 "$folder/log")"
done

source=$(find "$environment" -type d -path '*/nvidia/cu13' -print -quit)
[ -n "$source" ] || fail "the wheels hold no nvidia/cu13; remove the folder and run this again"

# Each program is a link of its own: nvcc looks for the rest beside the folder that it is called in.
rm -rf "$folder/bin" "$folder/include" "$folder/lib64" "$folder/lib" "$folder/nvvm"
mkdir -p "$folder/bin" "$folder/include" "$folder/lib64"
ln -s "$source"/bin/* "$folder/bin/"
ln -s "$source"/include/* "$folder/include/"
ln -s "$source/nvvm" "$folder/nvvm"
for library in "$source"/lib/*.a "$source"/lib/*.so.*; do
  [ -e "$library" ] || continue
  name=$(basename "$library")
  ln -s "$library" "$folder/lib64/$name"
  case $name in *.so.*) ln -s "$name" "$folder/lib64/${name%%.so.*}.so" ;; esac
done
ln -s lib64 "$folder/lib"

"$folder/bin/nvcc" --version > "$folder/log" 2>&1 || fail "nvcc does not start: $(tail -n 1 "$folder/log")"
rm -f "$folder/log"
echo "${parts[*]}" > "$done_mark"
echo "$folder: $(du -sh "$folder" | cut -f1)"
