"""The codec of `llasa quickstart`: X-Codec2's kind, small enough for minutes on a CPU.

    llasa codec train quickstart_codec --store runs/mine/corpus --out runs/mine

16 kHz, one FSQ code of 4^7 = 16,384 every 320 samples: 700 bit/s. 6.7 M parameters. 1,850 steps of
8 crops of 1.28 s: 5.3 hours of audio drawn, about 3.8e13 FLOPs in the model and as many again in
Muon's orthogonalisation. Expected: 470 s on 2 cores, held-out STOI 0.88 on synthetic and 0.80 on
recorded English speech (1,421 steps on a busy machine gave 0.878 and 0.803).

X-Codec2 has 4^8 codes, a time-domain encoder, discriminators and a mel floor of 1e-5; why this one
differs stands in docs/quickstart.md, with numbers.
"""

from llasa_jax.config import (
    CodecConfig,
    CodecRun,
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
            steps=1850,
            batch=8,
            spike_sigmas=0.0,
            optimizer=OptimizerConfig(
                kind="muon", peak=3e-3, final=0.02, warmup=0.03, beta1=0.8, beta2=0.95
            ),
            valid_every=10**9,
            save_every=250,
        ),
        crop_seconds=1.28,
        recorded_share=0.24,
        mel_floor=1e-3,
    )
