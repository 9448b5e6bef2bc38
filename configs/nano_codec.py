"""The nano codec: X-Codec2's kind, for about an hour on a CPU, on all speech that can be reached.

    llasa data prepare nano --out runs/nano/corpus
    llasa codec train nano_codec --store runs/nano/corpus --out runs/nano

16 kHz, one FSQ code of 4^8 = 65,536 every 320 samples: 800 bit/s. 10.9 M parameters, steps of 16
crops of 1.28 s, 6.7e10 FLOPs in the model each. Expected: 1,706 steps (67 minutes of a busy 2-core
machine) gave PESQ-WB 1.56 and STOI 0.849 on recorded voices that it was never trained on. Why so
stands in docs/nano-codec.md, with numbers.
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
            levels=(4,) * 8,
            spectral=SpectralConfig(
                transformer=TransformerConfig(dim=192, ffn=768, layers=3, heads=4)
            ),
            decoder=TransformerConfig(dim=320, ffn=1280, layers=4, heads=5),
            scan_layers=False,
        ),
        train=TrainConfig(
            steps=5000,
            batch=16,
            spike_sigmas=0.0,
            optimizer=OptimizerConfig(
                kind="muon", peak=3e-3, final=0.02, warmup=0.02, beta1=0.8, beta2=0.95
            ),
            valid_every=10**9,
            save_every=250,
        ),
        crop_seconds=1.28,
        recorded_share=0.85,
        language_power=0.5,
        speed=1.15,
        loudness_weight=0.2,
        mel_floor=1e-3,
    )
