#!/usr/bin/env bash
# The recorded-speech model: Dutch game dialogues (two speakers, 63 minutes to learn from, GPL), on
# top of the voice that the package carries; it does not ship. Goes on where it was stopped.
#   bash launch/dutch.sh [FOLDER]      (default: runs/dutch; about two hours of one CPU core)
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/_env.sh"

install_core
large_pages
cd "$ROOT"
out="${1:-runs/dutch}"

[ -e "$out/corpus/store.json" ] || llasa data prepare fillets-nl --out "$out/corpus"
[ -e "$out/model/codec.safetensors" ] ||
  llasa codec train dutch_codec --init llasa_jax/nano --store "$out/corpus" --out "$out"
[ -e "$out/model/recogniser.safetensors" ] ||
  llasa train dutch_recogniser --init llasa_jax/nano --store "$out/corpus" --out "$out"
[ -e "$out/model/speaker.safetensors" ] ||
  llasa train quickstart_speaker --store "$out/corpus" --out "$out"
# The language model reads on in the English of the shipped voice's corpus, in the new codec's codes.
[ -e "$out/english/store.json" ] || llasa data prepare flite-en --out "$out/english" --minutes 1260
rows=(--model "$out/model" --tokenizer english --set row=512
  --set 'kinds=["generation","understanding"]')
llasa data prepare "$out/corpus" "${rows[@]}" --set 'speeds=[0.9,1.1]' --out "$out/tokens" >/dev/null
llasa data prepare "$out/english" "${rows[@]}" --out "$out/english-tokens" >/dev/null
cp llasa_jax/nano/sampling.json "$out/model/"
[ -e "$out/model/lm.safetensors" ] ||
  llasa train dutch_lm --init llasa_jax/nano --tokens "$out/tokens" --model "$out/model" \
    --out "$out/lm" --set "sources.2.folder=$out/english-tokens" \
    --set "sources.3.folder=$out/english-tokens"
# Who judges: another architecture, the other half of the recordings. It learns to listen on flite.
[ -e "$out/judge-en/model/recogniser.safetensors" ] ||
  llasa train quickstart_judge --store "$out/english" --out "$out/judge-en" \
    --set train.steps=1500 --set max_seconds=6.0
[ -e "$out/judge/model/recogniser.safetensors" ] ||
  llasa train dutch_judge --init "$out/judge-en" --store "$out/corpus" --out "$out/judge"
judges=(--scorer "recogniser=$out/judge/model" --scorer ge2e)
llasa eval tts "$out/corpus" --model "$out/model" "${judges[@]}" --out "$out/eval/four" \
  --strategy truth,codec,direct,partial,partial+best-of --candidates 4 --beams 4
llasa eval tts "$out/corpus" --model "$out/model" "${judges[@]}" --out "$out/eval/sixteen" \
  --strategy best-of --candidates 16
say "listen: $out/eval/four/tts.html"
