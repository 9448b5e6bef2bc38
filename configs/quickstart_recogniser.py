"""The content verifier of `llasa quickstart`: a convolutional CTC recogniser."""

from llasa_jax.config import OptimizerConfig, RecogniserConfig, RecogniserRun, TrainConfig


def get_config() -> RecogniserRun:
    return RecogniserRun(
        recogniser=RecogniserConfig(kind="conv", dim=192, layers=6, width=9),
        train=TrainConfig(
            steps=450,
            batch=16,
            optimizer=OptimizerConfig(kind="muon", peak=2e-3, final=0.02, warmup=0.05),
            log_every=50,
            valid_every=10**9,
            save_every=150,
        ),
    )
