#!/usr/bin/env bash
# Everything that is wanted from a GPU, in one run. Not measured yet: no GPU was at hand.
#
#   bash bench/gpu.sh [MINUTES]    MINUTES to train the nano codec for (60)
#
# Needs one NVIDIA GPU with a driver for CUDA 13, Debian or Ubuntu, Python 3.11 or newer, about 20
# GiB of disk, and as much time again for installing, the corpus and the measurements. It
#   1. installs into .venv, with jax's CUDA libraries, torch and transformers;
#   2. prepares the nano corpus and trains configs/nano_codec.py on it (an interrupted run goes on);
#   3. measures that codec, Opus and Codec2 on held-out recordings (`llasa eval codec`);
#   4. times the released codec against transformers on this GPU, alone and 16 at once;
#   5. times the training step of Llasa-1B, 4 x 2,048 tokens, against transformers with PyTorch.
# What it trained lies in runs/gpu, its numbers in results/gpu: gpu.txt, eval.json, bench-1.json,
# bench-16.json and train-1b.json.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/../launch/_env.sh"

minutes="${1:-60}"
[[ "$minutes" =~ ^[1-9][0-9]*$ ]] || die "bench/gpu.sh $minutes: expected whole minutes, as 60"
command -v nvidia-smi >/dev/null || die "no NVIDIA driver (nvidia-smi); run this on a machine with a GPU"

install_core
jax="$(sed -n 's/^jax==//p' "$ROOT/requirements.txt")"
pip_install "jax for CUDA" "minutes" "jax[cuda13]==$jax"
pip_install "evaluation tools" "about a minute" -r "$ROOT/requirements-eval.txt"
pip_install "torch" "minutes" "$(grep '^torch==' "$ROOT/requirements-parity.txt")"
pip_install "transformers" "about a minute" -r "$ROOT/requirements-parity.txt"

cd "$ROOT"
"$PYTHON" -c 'import jax; raise SystemExit(jax.default_backend() != "gpu")' ||
  die "jax does not see the GPU; check that its driver is one for CUDA 13 (nvidia-smi)"
llasa="$VENV/bin/llasa" run="runs/gpu" results="results/gpu"
mkdir -p "$run" "$results"
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv >"$results/gpu.txt"

"$llasa" data prepare nano --out "$run/corpus"
"$llasa" codec train nano_codec --store "$run/corpus" --out "$run" --minutes "$minutes" \
  --set train.steps=200000 --set train.batch=64
"$llasa" eval codec --store "$run/corpus" --model "$run/model" --out "$run/eval" --json \
  >"$run/eval.json"
for batch in 1 16; do
  "$llasa" bench codec --batch "$batch" --json >"$run/bench-$batch.json"
done
# Both sides need most of the GPU, one after the other.
XLA_PYTHON_CLIENT_PREALLOCATE=false "$llasa" bench train --model-size 1b --json >"$run/train-1b.json"
# whole or not at all
mv "$run/eval.json" "$run/bench-1.json" "$run/bench-16.json" "$run/train-1b.json" "$results/"
say "Results: $ROOT/$results"
