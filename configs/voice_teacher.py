"""The teacher of the shipped voice's codec: its recogniser after a quarter of the steps.

    llasa train voice_teacher --store runs/voice/corpus --out runs/voice/teacher

`codec.semantic` learns from its states (docs/voice.md). 6 minutes on 2 CPU cores.
"""

from dataclasses import replace

from llasa_jax.config import RecogniserRun, load_config


def get_config() -> RecogniserRun:
    run = load_config("voice_recogniser", RecogniserRun)
    return replace(run, train=replace(run.train, steps=2500, valid_every=500, save_every=250))
