#!/usr/bin/env bash
# Fills the paper's table 2 with the released models: fetches, converts, speaks, judges, and holds
# the figures against the paper's (docs/evaluation.md). Started again, it goes on where it stopped.
#   bash launch/paper.sh [FOLDER]      (default: runs/paper)
# What FOLDER/weights and FOLDER/seedtts_testset hold already is not fetched.
# For less: PAPER_MODELS="llasa-1b", PAPER_SETS="en", PAPER_OPTIONS="--utterances 100".
# Several processes share the work as JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID
# say; start it alone first with PAPER_SETS=none, which fetches and converts.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/_env.sh"

install_core
cd "$ROOT"
out="${1:-runs/paper}"
read -ra models <<<"${PAPER_MODELS:-llasa-1b llasa-3b llasa-8b}"
read -ra sets <<<"${PAPER_SETS:-en zh hard}"
read -ra options <<<"${PAPER_OPTIONS:-}"
mkdir -p "$out/weights" "$out/models" "$out/plans"

# hub NAME REPOSITORY: a repository of the Hugging Face hub as weights/NAME, whole or not at all.
hub() {
  [ -e "$out/weights/$1" ] && return
  say "Fetching $2"
  "$VENV/bin/hf" download "$2" --local-dir "$out/weights/.$1.part" >/dev/null ||
    die "cannot fetch $2; put it into $out/weights/$1 and start again"
  mv "$out/weights/.$1.part" "$out/weights/$1"
}

# drive FILE ID: a file of Google Drive, as seed-tts-eval publishes its list and its judge of voices.
drive() {
  pip_install "gdown" "seconds" "gdown>=5"
  say "Fetching $1"
  "$PYTHON" -m gdown "$2" -O "$1.part" >&2 || die "cannot fetch $1; put it there and start again"
  mv "$1.part" "$1"
}

for model in "${models[@]}"; do
  size="${model#llasa-}"
  hub "$model" "HKUSTAudio/Llasa-${size%b}B"
done
hub xcodec2 HKUSTAudio/xcodec2-hf
hub whisper-large-v3 openai/whisper-large-v3
judge="$out/weights/wavlm_large_finetune.pth"
[ -e "$judge" ] || drive "$judge" 1-aE1NfzpRCLxA4GUxX9ITI3F9LlbtEGP
lists="$out/seedtts_testset"
if [ ! -e "$lists" ]; then
  [ -e "$out/seedtts_testset.tar" ] || drive "$out/seedtts_testset.tar" 1GlSjVfSHkW3-leKKBlfrjuuTGqQ_xaLP
  tar -xf "$out/seedtts_testset.tar" -C "$out"
fi

given=()
for model in "${models[@]}"; do
  folder="$out/models/$model"
  [ -e "$folder/codec.safetensors" ] || llasa convert "$out/weights/xcodec2" --out "$folder"
  [ -e "$folder/lm.safetensors" ] || llasa convert "$out/weights/$model" --out "$folder"
  given+=(--model "$folder")
  # An estimate of the chip-hours needs libtpu, and nothing else here does.
  if [ ! -e "$out/plans/$model.json" ] && "$PYTHON" -c 'import libtpu' 2>/dev/null; then
    llasa plan "${model//-/_}" --program search --topology "${PAPER_TOPOLOGY:-v5p:2x2x2}" --json \
      >"$out/plans/.$model.part"
    mv "$out/plans/.$model.part" "$out/plans/$model.json"
  fi
done

# The paper's beams are led by the judge of voices, and the takes chosen by the judge of words.
for set in "${sets[@]}"; do
  case "$set" in
  en) list=en/meta.lst language=en words=whisper scorer="whisper=$out/weights/whisper-large-v3" ;;
  zh) list=zh/meta.lst language=zh words=paraformer scorer=paraformer ;;
  hard) list=zh/hardcase.lst language=zh words=paraformer scorer=paraformer ;;
  none) exit ;;
  *) die "PAPER_SETS: $set is none of en, zh, hard, none" ;;
  esac
  if [ "$language" = zh ]; then # neither is a dependency: zhconv is under the GPL
    pip_install "the Chinese judge" "minutes" funasr torchaudio zhconv
  fi
  ways=direct,partial,partial+best-of
  [ "$set" = hard ] || ways="truth,codec,$ways"
  llasa eval tts "$lists/$list" --language "$language" "${given[@]}" --strategy "$ways" \
    --scorer "$scorer" --scorer "wavlm=$judge" --lead wavlm --select "$words-wer" --completions 1 \
    --out "$out/results/$set" ${options[@]+"${options[@]}"} || [ $? -eq 1 ] # 1: lines refused
done
llasa eval paper "$out"
