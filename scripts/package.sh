#!/usr/bin/env bash
# Builds a .deb with the window, the command line and the starter, and says where it is.
set -euo pipefail
cd "$(dirname "$0")/.."

target=$(cargo metadata --locked --no-deps --format-version 1 |
  node -pe 'JSON.parse(require("node:fs").readFileSync(0)).target_directory')

cargo build --release --locked -p impasto
node scripts/notices.mjs > "$target/THIRD-PARTY.txt"

# Where the files come from is known only now: the target folder may lie anywhere.
config=$(target=$target node -pe 'JSON.stringify({ bundle: { linux: { deb: { files: {
  "/usr/bin/impasto": `${process.env.target}/release/impasto`,
  "/usr/share/doc/impasto/THIRD-PARTY.txt": `${process.env.target}/THIRD-PARTY.txt`,
} } } } })')
ui/node_modules/.bin/tauri build --bundles deb --config "$config" -- --locked

package=$(ls -t "$target"/release/bundle/deb/*.deb | head -n 1)
echo "$package: $(du -h "$package" | cut -f1)"
