"""The shipped voice's second stage: it goes on, and learns what speech is without its text.

    llasa train voice_guided --init FIRST --tokens TOKENS --model MODEL --out RUN

`voice_lm`'s shape and data, 2,500 steps from its weights: 15 % of the examples have their text
blank, so that what the text changes can be made larger when it speaks (`SamplerConfig.guidance`).
5.1 M tokens, 1.4e14 FLOPs, 20 minutes on 2 quiet CPU cores. What guidance is worth: docs/voice.md.
"""

from dataclasses import replace

from llasa_jax.config import DecoderRun, load_config


def get_config() -> DecoderRun:
    run = load_config("voice_lm", DecoderRun)
    optimizer = replace(run.train.optimizer, peak=1.5e-3, warmup=0.04)
    train = replace(run.train, steps=2500, keep_every=500, optimizer=optimizer)
    return replace(run, train=train, blank_texts=0.15)
