#!/usr/bin/env bash
# Build the image: ./build.sh MODEL [TAG]
# MODEL is a model folder of autoreg: plan.json with fold_*/checkpoint_*.pt.
set -euo pipefail
model=${1:?usage: build.sh MODEL [TAG]}
tag=${2:-autoreg_lumir}
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
[ -f "$model/plan.json" ] || { echo "$model: no model folder; expected plan.json in it" >&2; exit 2; }
context=$(mktemp -d)
trap 'rm -rf "$context"' EXIT
mkdir "$context/source"
for part in setup.py pyproject.toml README.md LICENSE autoreg inference dataset_conversion; do
  cp -r "$root/$part" "$context/source/"
done
cp -rL "$model" "$context/model"
cp "$here/Dockerfile" "$here/infer_script.py" "$context/"
docker build --tag "$tag" "$context"
