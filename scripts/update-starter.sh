#!/usr/bin/env bash
# Copies the starter model into assets/starter: update-starter.sh [FOLDER]
#
# FOLDER is a release of the starter: model/ (diffusers layout), adapters/, starter.json and README.md
# (the model card). By default it is ../shared/starter, beside the checkout. Can be run again whenever a
# better one arrives: what is in assets/starter is replaced as a whole, or not at all. Sample sheets stay
# behind, and the covers that are there already stay. The tests check every adapter against the SHA-256
# that starter.json gives it.
set -euo pipefail
cd "$(dirname "$0")/.."

from=${1:-../shared/starter}
to=assets/starter

for needed in starter.json README.md model/model_index.json model/unet/config.json adapters; do
  [ -e "$from/$needed" ] || { echo "\`$from\` is not a release of the starter: it has no $needed" >&2; exit 1; }
done

mkdir -p assets
new=$(mktemp -d assets/starter.XXXXXX.tmp)
trap 'rm -rf "$new"' EXIT
(cd "$from" && find starter.json README.md model adapters -type f) | while IFS= read -r file; do
  install -D -m 644 "$from/$file" "$new/$file"
done
# The covers are ours: pictures that the starter made, each with its recipe in it.
for cover in "$to"/*.png "$to"/adapters/*.png; do
  [ -e "$cover" ] || continue
  copy=$new/${cover#"$to"/}
  if [ ! -e "$copy" ] && { [ -d "${copy%.png}" ] || [ -e "${copy%.png}.safetensors" ]; }; then
    install -m 644 "$cover" "$copy"
  fi
done
chmod 755 "$new"
rm -rf "$to"
mv "$new" "$to"
trap - EXIT
echo "$to: $(find "$to" -type f | wc -l) files, $(du -sh "$to" | cut -f1)"
