"""The codec of `llasa quickstart`: X-Codec2's kind, small enough for minutes on a CPU."""

from llasa_jax.config import (
    CodecConfig,
    CodecRun,
    OptimizerConfig,
    TrainConfig,
    TransformerConfig,
)


def get_config() -> CodecRun:
    return CodecRun(
        codec=CodecConfig(
            levels=(4,) * 7,
            encoder=TransformerConfig(dim=192, ffn=768, layers=2, heads=4),
            decoder=TransformerConfig(dim=256, ffn=1024, layers=3, heads=4),
            scan_layers=False,
        ),
        train=TrainConfig(
            steps=1700,
            batch=8,
            optimizer=OptimizerConfig(
                kind="muon", peak=3e-3, final=0.02, warmup=0.03, beta1=0.8, beta2=0.95
            ),
            valid_every=10**9,
            save_every=250,
        ),
        crop_seconds=1.28,
        recorded_share=0.28,
        mel_floor=1e-3,
    )
