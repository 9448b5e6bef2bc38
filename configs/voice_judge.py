"""Who judges long texts of the shipped voice: a transformer; what chooses takes is convolutional.

    llasa train voice_judge --store runs/voice/corpus --out runs/voice-judge

Pocketsphinx does not hear every sentence even of flite itself. This one learned flite's voices from
the corpus that trained the shipped voice, not from its takes, and chooses nothing.
"""

from dataclasses import replace

from llasa_jax.config import RecogniserRun, load_config


def get_config() -> RecogniserRun:
    run = load_config("quickstart_judge", RecogniserRun)
    train = replace(run.train, steps=4000, valid_every=1000, save_every=250)
    return replace(run, train=train, max_seconds=10.0)
