"""X-Codec2's training recipe in small: the two stages, first without discriminators, then with.

    llasa codec train codec_gan_small --store runs/mine/corpus --out runs/mine

16 kHz, 4^7 codes, 700 bit/s: quickstart's codec, and 0.6 M parameters of discriminators from the
middle of the run on. Two stages train fastest: a codec that cannot speak yet learns little from
being judged. Losses as in configs/xcodec2.py, without a semantic branch. To try the recipe with, on
any machine; nothing was measured with it.
"""

from llasa_jax.config import (
    CodecConfig,
    CodecRun,
    DiscriminatorConfig,
    GanConfig,
    OptimizerConfig,
    SpectralConfig,
    TrainConfig,
    TransformerConfig,
)


def get_config() -> CodecRun:
    return CodecRun(
        codec=CodecConfig(
            levels=(4,) * 7,
            spectral=SpectralConfig(
                transformer=TransformerConfig(dim=192, ffn=768, layers=2, heads=4)
            ),
            decoder=TransformerConfig(dim=256, ffn=1024, layers=3, heads=4),
            scan_layers=False,
        ),
        train=TrainConfig(
            steps=4_000,
            batch=8,
            spike_sigmas=0.0,
            optimizer=OptimizerConfig(
                peak=5e-4, final=0.1, warmup=0.03, beta1=0.8, beta2=0.9, schedule="wsd"
            ),
            valid_every=500,
            save_every=250,
        ),
        crop_seconds=1.28,
        mel_weight=15.0,
        mel_floor=1e-3,
        gan=GanConfig(
            discriminators=DiscriminatorConfig(
                periods=(2, 3, 5),
                period_channels=(8, 16, 32, 64),
                windows=(126, 334, 876),
                window_channels=(8, 16, 32, 64),
            ),
            optimizer=OptimizerConfig(peak=2e-4, final=0.1, beta1=0.8, beta2=0.9, schedule="wsd"),
            start=0.5,
        ),
    )
