#!/usr/bin/env bash
# Does it fit? Compiles a run's training step for a pod that is not there, before one is paid for.
# Ends with 1 if it does not fit. What it prints: docs/plan.md; it takes what `llasa plan` takes:
#   bash launch/compile.sh llasa_8b --topology v6e:16x16 --slices 2 --set lm.remat=attention
# --flags takes the compiler flags of launch/flags, as `launch/pod.sh ... run --flags` does.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/_env.sh"

install_core
pip_install "libtpu" "213 MB" -r "$ROOT/requirements-plan.txt"
words=()
for word in "$@"; do
  if [ "$word" != --flags ]; then
    words+=("$word")
  elif [[ " $* " =~ " --topology "([a-z0-9]+): && -e "$ROOT/launch/flags/${BASH_REMATCH[1]}.env" ]]; then
    LIBTPU_INIT_ARGS="$(sed 's/#.*//' "$ROOT/launch/flags/${BASH_REMATCH[1]}.env" | xargs)"
    export LIBTPU_INIT_ARGS
  else
    die "--flags: of which chip? give --topology, as v6e:4x4"
  fi
done
plan="$("$VENV/bin/llasa" plan "${words[@]}")"
printf '%s\n' "$plan"
grep -q '^fits  *yes' <<<"$plan"
