"""The shipped voice's recogniser: content verifier, and the ear that chooses among takes.

    llasa train voice_recogniser --store runs/voice/corpus --out runs/voice

1.2 M parameters, 10,000 steps of 16 utterances of `flite-en`: 7 passes, 25 minutes on 2 CPU cores.
It errs in 9.7 % of the letters of validation originals, 16.7 % after a quarter of the steps.
"""

from llasa_jax.config import OptimizerConfig, RecogniserConfig, RecogniserRun, TrainConfig


def get_config() -> RecogniserRun:
    return RecogniserRun(
        recogniser=RecogniserConfig(kind="conv", dim=160, layers=8, width=5),
        train=TrainConfig(
            steps=10000,
            batch=16,
            spike_sigmas=0.0,
            optimizer=OptimizerConfig(peak=2e-3, final=0.02, warmup=0.05, beta2=0.98),
            log_every=50,
            valid_every=2500,
            save_every=500,
        ),
        max_seconds=10.0,
    )
