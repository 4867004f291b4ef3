#!/usr/bin/env bash
# The direction of dependencies: a crate exists to forbid one (see ARCHITECTURE.md).
set -euo pipefail
cd "$(dirname "$0")/.."

failed=0
# forbid CRATE PATTERN...: the crate's dependency tree names none of these.
forbid() {
  local crate=$1 tree found
  shift
  tree=$(cargo tree --locked -p "$crate" -e normal --prefix none --format '{p}' | cut -d' ' -f1 | sort -u)
  for name in "$@"; do
    if found=$(grep -x -- "$name" <<< "$tree"); then
      echo "$crate depends on $(tr '\n' ' ' <<< "$found"), which it must not" >&2
      failed=1
    fi
  done
}
# forbid_direct CRATE NAME...: the crate's own manifest names none of these.
forbid_direct() {
  local crate=$1 tree
  shift
  tree=$(cargo tree --locked -p "$crate" -e normal --depth 1 --prefix none --format '{p}' | cut -d' ' -f1)
  for name in "$@"; do
    if grep -qx -- "$name" <<< "$tree"; then
      echo "$crate depends on $name directly, which it must not" >&2
      failed=1
    fi
  done
}

forbid impasto-kernels 'candle.*' 'serde' 'serde_json' 'impasto-engine' 'impasto-studio'
forbid impasto-cuda 'candle.*' 'serde' 'serde_json' 'impasto-engine' 'impasto-studio'
forbid impasto-engine 'tauri.*' 'tokio' 'rusqlite' 'impasto-studio'
forbid impasto-studio 'tauri.*'
forbid_direct impasto-studio 'candle-core' 'candle-nn' 'impasto-cuda'
forbid_direct impasto 'candle-core' 'candle-nn' 'impasto-kernels' 'impasto-cuda'
forbid impasto 'tauri.*'
# The window talks to the studio, and to nothing behind it.
forbid_direct impasto-window 'candle-core' 'candle-nn' 'impasto-kernels' 'impasto-cuda' 'impasto-engine' 'rusqlite'

[ "$failed" = 0 ] && echo "dependencies point the right way"
exit "$failed"
