#!/usr/bin/env bash
# Checks the program that was built for NVIDIA cards, on any machine: check-cuda.sh PROGRAM
#
# It must start where there is no driver, and there say why the device `cuda` cannot be used.
set -euo pipefail
cd "$(dirname "$0")/.."

program=${1:?name the program}
[ -x "$program" ] || { echo "there is no program \`$program\`; run \`make cuda\`" >&2; exit 1; }
echo "$program: $(du -h --apparent-size "$program" | cut -f1)"

linked=$(ldd "$program" | grep -E 'lib(cu|nv)' || true)
if [ -n "$linked" ]; then
  echo "the program is linked to NVIDIA's libraries, so it starts on no other machine:" >&2
  echo "$linked" >&2
  exit 1
fi
"$program" --version

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
generate() {
  "$program" generate --model assets/starter/model --prompt "a fox on a light blue background" --steps 2 \
    --width 64 --height 64 --seed 7 --json "$@"
}
generate --device cpu --out "$work/cpu.png" > "$work/cpu.json"
[ -s "$work/cpu.png" ] || { echo "there is no picture from the processor" >&2; exit 1; }

if generate --device cuda --out "$work/cuda.png" > "$work/cuda.json" 2> "$work/cuda.log"; then
  echo "the device cuda makes a picture"
else
  status=$?
  # A panic ends with 101, a signal with more: neither is an explanation.
  if [ "$status" -ge 101 ] || ! grep -qiE 'nvidia|cuda|card' "$work/cuda.log"; then
    echo "the device cuda ends with $status and does not say why:" >&2
    cat "$work/cuda.log" >&2
    exit 1
  fi
  echo "the device cuda cannot be used here, and says: $(tail -n 1 "$work/cuda.log")"
fi

generate --out "$work/auto.png" > "$work/auto.json" 2> "$work/auto.log"
[ -s "$work/auto.png" ] || { echo "there is no picture from the device that it chose" >&2; exit 1; }
if grep -q '"device": *"cpu"' "$work/auto.json" && ! grep -q 'the processor makes the picture' "$work/auto.log"; then
  echo "it chose the processor and does not say why" >&2
  exit 1
fi
echo "by itself it makes a picture, and says: $(grep -m 1 warning "$work/auto.log" || echo nothing)"
