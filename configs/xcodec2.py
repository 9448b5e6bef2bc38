"""X-Codec2 as its authors trained it (Ye et al. 2025): 16 kHz, one FSQ code of 65,536 every 320.

    llasa convert xcodec2/model.safetensors --out models/xcodec2
    llasa data prepare recordings/ --out corpus
    llasa codec train xcodec2 --store corpus --out runs/xcodec2 --set semantic_model=models/xcodec2

The frozen Wav2Vec2-BERT, its first 16 layers, comes from the converted model. Trained are 242.2 M
parameters of the codec, 14.7 M that only the semantic loss needs, and 28.4 M of discriminators.

Losses: 15 mel + adversarial + features of both kinds of discriminators + 5 semantic; both
optimizers AdamW at 1e-4, each clipped at 1. 700,000 steps of 320 clips of 6 s, of 150,000 h: what
the released checkpoint's 1.4 M "steps" and its batch of 8 a GPU amount to, if there were 40 GPUs.
The rate rises over 3,000 steps, falls until step 403,000 and stays. The released codec had a
perceptual loss in its last 200,000 "steps", of unknown weight: `perceptual_weight` is 0 here. The
products of a clip cost 1.6e12 FLOPs, those of the run 3.6e20.

Expected are the released checkpoint's figures (STOI 0.92, PESQ-WB 2.43 on LibriSpeech test-clean);
nobody has run this to its end here. `llasa plan xcodec2` says what a step needs on which TPUs.
"""

from llasa_jax.config import (
    CodecConfig,
    CodecRun,
    ConvConfig,
    GanConfig,
    MeshConfig,
    OptimizerConfig,
    SemanticConfig,
    TrainConfig,
    TransformerConfig,
)

STEPS = 700_000


def get_config() -> CodecRun:
    optimizer = OptimizerConfig(
        peak=1e-4,
        start=0.1,
        final=0.2,
        warmup=3_000 / STEPS,
        warmup_power=2.0,
        schedule="linear",
        decay=400_000 / STEPS,
        beta1=0.8,
        beta2=0.9,
    )
    return CodecRun(
        codec=CodecConfig(
            spectral=None,
            conv=ConvConfig(),
            semantic=SemanticConfig(),
            decoder=TransformerConfig(dim=1024, ffn=4096, layers=12, heads=16),
            compute_dtype="bfloat16",
        ),
        train=TrainConfig(
            steps=STEPS,
            batch=320,
            spike_sigmas=0.0,
            optimizer=optimizer,
            mesh=MeshConfig(fsdp=-1),
            valid_every=4_000,
            save_every=2_000,
        ),
        crop_seconds=6.0,
        recorded_share=1.0,
        language_power=1.0,
        mel_weight=15.0,
        spread_weight=0.0,
        gan=GanConfig(optimizer=optimizer),
    )
