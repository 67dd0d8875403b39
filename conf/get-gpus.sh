#!/usr/bin/env bash
# The GPUs of this machine as Spark asks for them: {"name": "gpu", "addresses": ["0", "1"]}. No GPU is an empty list.
#
# spark.{executor,worker,driver}.resource.gpu.discoveryScript takes it, and on local masters the pipeline runs it itself.
# Addresses are the numbers of nvidia-smi, in the order of the PCI bus; parts of a GPU (MIG) go by their UUID, because
# they have no number. What CUDA_VISIBLE_DEVICES names, if it is set, is all there is.
set -euo pipefail

list() {
  if [ -n "${CUDA_VISIBLE_DEVICES+set}" ]; then
    tr ',' '\n' <<<"$CUDA_VISIBLE_DEVICES"
  elif command -v nvidia-smi >/dev/null; then
    local gpus parts
    gpus=$(nvidia-smi -L 2>/dev/null || true)
    parts=$(sed -n 's/^ *MIG .*(UUID: \(MIG-[^)]*\)).*/\1/p' <<<"$gpus")
    if [ -n "$parts" ]; then
      echo "$parts"
    else
      sed -n 's/^GPU \([0-9]*\):.*/\1/p' <<<"$gpus"
    fi
  elif [ -d /proc/driver/nvidia/gpus ]; then # containers without nvidia-smi; names are PCI addresses
    local number=0 gpu
    for gpu in /proc/driver/nvidia/gpus/*/; do
      if [ -d "$gpu" ]; then echo "$number"; fi
      number=$((number + 1))
    done
  fi
}

# as CUDA does: -1 and whatever follows it are not there
addresses=$(list | sed -n -e 's/[[:space:]]//g' -e '/^-/q' -e '/^$/d' -e 's/.*/"&"/p' | paste -sd, -)
echo "{\"name\": \"gpu\", \"addresses\": [${addresses}]}"
