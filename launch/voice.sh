#!/usr/bin/env bash
# The recipe of the voice that the package carries: from an empty folder to a model folder with
# named voices, in half precision. Interrupted anywhere and started again, it goes on.
#   bash launch/voice.sh [FOLDER]      (default: runs/voice)
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/_env.sh"

install_core
large_pages
cd "$ROOT"
out="${1:-runs/voice}"

[ -e "$out/corpus/store.json" ] || llasa data prepare flite-en --out "$out/corpus" --minutes 1260
[ -e "$out/teacher/model/recogniser.safetensors" ] ||
  llasa train voice_teacher --store "$out/corpus" --out "$out/teacher"
[ -e "$out/model/recogniser.safetensors" ] ||
  llasa train voice_recogniser --store "$out/corpus" --out "$out"
[ -e "$out/model/speaker.safetensors" ] || llasa train voice_speaker --store "$out/corpus" --out "$out"
[ -e "$out/model/codec.safetensors" ] ||
  llasa codec train voice_codec --store "$out/corpus" --out "$out" \
    --set semantic_model="$out/teacher/model"
llasa data prepare "$out/corpus" --model "$out/model" --out "$out/tokens" --tokenizer english \
  --set row=512 --set 'kinds=["generation","understanding"]' >/dev/null
# The language model in three stages: it reads; it also learns what speech is without its text; and
# it learns what its verifiers prefer of its own takes.
mkdir -p "$out/first" "$out/second"
cp "$out/model/"{codec.safetensors,tokenizer.json} "$out/first/"
cp "$out/model/"{codec,recogniser,speaker}.safetensors "$out/model/tokenizer.json" \
  llasa_jax/nano/sampling.json "$out/second/"
[ -e "$out/first/lm.safetensors" ] ||
  llasa train voice_lm --tokens "$out/tokens" --model "$out/first" --out "$out/lm"
[ -e "$out/second/lm.safetensors" ] ||
  llasa train voice_guided --init "$out/first" --tokens "$out/tokens" --model "$out/second" \
    --out "$out/guided"
[ -e "$out/second/voices" ] || llasa voices add "$out/corpus" --model "$out/second"
[ -e "$out/takes/data.json" ] ||
  llasa data distil voice_takes --model "$out/second" --out "$out/takes"
[ -e "$out/model/lm.safetensors" ] ||
  llasa train voice_distil --init "$out/second" --tokens "$out/tokens" --model "$out/model" \
    --out "$out/distilled" --set "sources.2.folder=$out/takes"
rm -rf "$out/nano.part"
llasa convert "$out/model" --out "$out/nano.part" --dtype float16
cp llasa_jax/nano/sampling.json "$out/nano.part/"
llasa voices add "$out/corpus" --model "$out/nano.part"
rm -rf "$out/nano" && mv "$out/nano.part" "$out/nano"
say "speak: llasa say \"any text\" --model $out/nano"
