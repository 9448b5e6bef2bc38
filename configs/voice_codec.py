"""The codec of the shipped voice: 25 codes a second of 4,096, taught by a recogniser.

    llasa data prepare flite-en --out runs/voice/corpus --minutes 1260
    llasa train voice_teacher --store runs/voice/corpus --out runs/voice/teacher
    llasa codec train voice_codec --store runs/voice/corpus --out runs/voice \
        --set semantic_model=runs/voice/teacher/model

16 kHz, one FSQ code of 4^6 = 4,096 every 640 samples: 300 bit/s. So few and so coarse because the
language model behind it learns from tens of millions of tokens, not from billions. What the codes
must hold first is what is said: the encoder hears the frozen features of `voice_teacher`, the
codes have to give them back (`semantic_weight`), and so has the sound (`perceptual_weight`).
"""

from llasa_jax.config import (
    CodecConfig,
    CodecRun,
    OptimizerConfig,
    RecogniserConfig,
    SemanticConfig,
    SpectralConfig,
    TrainConfig,
    TransformerConfig,
)


def get_config() -> CodecRun:
    return CodecRun(
        codec=CodecConfig(
            hop=640,
            levels=(4,) * 6,
            spectral=SpectralConfig(
                transformer=TransformerConfig(dim=128, ffn=512, layers=2, heads=4), frames=4
            ),
            semantic=SemanticConfig(
                kind="recogniser",
                dim=160,
                recogniser=RecogniserConfig(kind="conv", dim=160, layers=8, width=5),
            ),
            decoder=TransformerConfig(dim=224, ffn=896, layers=3, heads=7),
            istft_frames=4,
            scan_layers=False,
        ),
        train=TrainConfig(
            steps=5000,
            batch=8,
            spike_sigmas=0.0,
            optimizer=OptimizerConfig(
                kind="muon", peak=3e-3, final=0.02, warmup=0.02, beta1=0.8, beta2=0.95
            ),
            valid_every=1000,
            save_every=250,
        ),
        crop_seconds=2.56,
        recorded_share=0.0,
        semantic_weight=1.0,
        perceptual_weight=1.0,
        mel_floor=1e-3,
    )
