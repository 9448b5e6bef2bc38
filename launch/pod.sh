#!/usr/bin/env bash
# Starts a training run on someone's pods, and looks after it (docs/launch.md).
#   bash launch/pod.sh WAY run NAME CONFIG --topology v6e:4x4 [--slices N] [--spot] [--flags] [--set KEY=VALUE]
#   bash launch/pod.sh WAY logs|delete NAME
#   bash launch/pod.sh WAY list
# WAY is a file in launch/ways: gke, gcluster, xpk, tpu-vm, skypilot, slurm. --dry-run prints the
# commands and manifests, and runs nothing. The same `run` again goes on from the newest checkpoint.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/_env.sh"

"$PYTHON" -c '' >/dev/null 2>&1 || PYTHON="$(find_python)"
exec "$PYTHON" "$ROOT/launch/render.py" "$@"
