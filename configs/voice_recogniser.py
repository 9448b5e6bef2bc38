"""The shipped voice's recogniser: content verifier, teacher of its codec, and its own ear.

    llasa train voice_recogniser --store runs/voice/corpus --out runs/voice

1.2 M parameters, 2,500 steps of 16 utterances of `flite-en`.
"""

from llasa_jax.config import OptimizerConfig, RecogniserConfig, RecogniserRun, TrainConfig


def get_config() -> RecogniserRun:
    return RecogniserRun(
        recogniser=RecogniserConfig(kind="conv", dim=160, layers=8, width=5),
        train=TrainConfig(
            steps=2500,
            batch=16,
            spike_sigmas=0.0,
            optimizer=OptimizerConfig(peak=2e-3, final=0.02, warmup=0.05, beta2=0.98),
            log_every=50,
            valid_every=500,
            save_every=250,
        ),
        max_seconds=10.0,
    )
