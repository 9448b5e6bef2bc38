"""The speaker verifier of `llasa quickstart`: a small encoder that tells the voices apart."""

from llasa_jax.config import OptimizerConfig, SpeakerConfig, SpeakerRun, TrainConfig


def get_config() -> SpeakerRun:
    return SpeakerRun(
        speaker=SpeakerConfig(channels=96, layers=3),
        train=TrainConfig(
            steps=200,
            batch=24,
            optimizer=OptimizerConfig(peak=2e-3, final=0.02, warmup=0.05),
            log_every=50,
            valid_every=10**9,
            save_every=100,
        ),
    )
