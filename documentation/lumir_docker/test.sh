#!/usr/bin/env bash
# Run the image as the organisers do: ./test.sh LUMIR_dataset.json IMAGES OUTPUT [TAG]
# IMAGES is the folder that the paths in the json file start from.
set -euo pipefail
usage='usage: test.sh LUMIR_dataset.json IMAGES OUTPUT [TAG]'
dataset=$(realpath "${1:?$usage}")
images=$(realpath "${2:?$usage}")
mkdir -p "${3:?$usage}"
output=$(realpath "$3")
docker run --rm --ipc=host --memory 16g \
  --mount "type=bind,source=$dataset,target=/LUMIR_dataset.json,readonly" \
  --mount "type=bind,source=$images,target=/input,readonly" \
  --mount "type=bind,source=$output,target=/output" \
  "${4:-autoreg_lumir}"
