"""The speaker verifier of `llasa quickstart`: a small encoder that tells the voices apart.

    llasa quickstart

0.15 M parameters, 200 steps of 24 crops of 1.6 s, about 2e9 FLOPs a step. Expected: 10 s on 2
cores; the voice of 97 % of held-out crops among 10.
"""

from llasa_jax.config import OptimizerConfig, SpeakerConfig, SpeakerRun, TrainConfig


def get_config() -> SpeakerRun:
    return SpeakerRun(
        speaker=SpeakerConfig(channels=96, layers=3),
        train=TrainConfig(
            steps=200,
            batch=24,
            spike_sigmas=0.0,
            optimizer=OptimizerConfig(peak=2e-3, final=0.02, warmup=0.05),
            log_every=50,
            valid_every=10**9,
            save_every=100,
        ),
    )
