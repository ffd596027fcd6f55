#!/usr/bin/env bash
# Pack what is handed in: ./export.sh USER VALIDATION_ZIP [TAG]
# VALIDATION_ZIP is what autoreg_export_submission wrote for the validation pairs. The result is
# LUMIR_<USER>_TestPhase.zip: the image, README.txt and validation_predictions.zip. Fill in
# README.txt first.
set -euo pipefail
usage='usage: export.sh USER VALIDATION_ZIP [TAG]'
user=${1:?$usage}
validation=${2:?$usage}
tag=${3:-autoreg_lumir}
here=$(cd "$(dirname "$0")" && pwd)
if grep -q '<' "$here/README.txt"; then
  echo "$here/README.txt: fill in what stands in <angle brackets>" >&2
  exit 2
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp "$here/README.txt" "$work/README.txt"
cp "$validation" "$work/validation_predictions.zip"
docker save "$tag" | gzip >"$work/$tag.tar.gz"
python3 -m zipfile -c "LUMIR_${user}_TestPhase.zip" \
  "$work/$tag.tar.gz" "$work/README.txt" "$work/validation_predictions.zip"
