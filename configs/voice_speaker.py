"""The shipped voice's speaker verifier: a small encoder that tells its identities apart.

    llasa train voice_speaker --store runs/voice/corpus --out runs/voice

0.15 M parameters, 600 steps of 24 crops of 1.6 s.
"""

from llasa_jax.config import OptimizerConfig, SpeakerConfig, SpeakerRun, TrainConfig


def get_config() -> SpeakerRun:
    return SpeakerRun(
        speaker=SpeakerConfig(channels=96, layers=3),
        train=TrainConfig(
            steps=600,
            batch=24,
            spike_sigmas=0.0,
            optimizer=OptimizerConfig(peak=2e-3, final=0.02, warmup=0.05),
            log_every=50,
            valid_every=10**9,
            save_every=100,
        ),
    )
