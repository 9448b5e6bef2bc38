"""The released Llasa models: their shapes, and the run that the paper trained them with.

Ye et al. 2025 (arXiv 2502.04128), sections 3.3 and 4.2.1; the shapes are those of Llama 3.2 1B and
3B and of Llama 3.1 8B (Grattafiori et al. 2024) with 8 tags and 65,536 codes in the vocabulary.
"""

from llasa_jax.config import (
    DecoderConfig,
    DecoderRun,
    MeshConfig,
    OptimizerConfig,
    RopeScaling,
    TrainConfig,
)

LLASA_1B = DecoderConfig(
    dim=2048,
    ffn=8192,
    layers=16,
    heads=32,
    kv_heads=8,
    head_dim=64,
    rope_scaling=RopeScaling(factor=32.0),
    attention="splash",
    compute_dtype="bfloat16",
    remat="full",
)
LLASA_3B = DecoderConfig(
    dim=3072,
    ffn=8192,
    layers=28,
    heads=24,
    kv_heads=8,
    head_dim=128,
    rope_scaling=RopeScaling(factor=32.0),
    attention="splash",
    compute_dtype="bfloat16",
    remat="full",
)
LLASA_8B = DecoderConfig(
    dim=4096,
    ffn=14336,
    layers=32,
    heads=32,
    kv_heads=8,
    head_dim=128,
    rope_scaling=RopeScaling(factor=8.0),
    tied_embeddings=False,
    attention="splash",
    compute_dtype="bfloat16",
    remat="full",
)

# An utterance of 11.6 s, the mean: 580 codes, and about 85 ids of template and text.
TOKENS_AN_HOUR = 3600 * 50 * (580 + 85) / 580
ROW, ROWS = 2048, 1024  # a batch of 2 M tokens


def paper_run(lm: DecoderConfig, hours: float = 250_000) -> DecoderRun:
    """Three epochs of `hours` of speech in packed rows, as the paper trained all its models.

    AdamW at 5e-5 with a warm-up of 3 % and a cosine to a tenth; all devices along fsdp.
    """
    return DecoderRun(
        lm=lm,
        train=TrainConfig(
            steps=round(3 * hours * TOKENS_AN_HOUR / (ROW * ROWS)),
            batch=ROWS,
            mesh=MeshConfig(fsdp=-1),
            optimizer=OptimizerConfig(peak=5e-5, final=0.1, warmup=0.03, weight_decay=0.01),
            valid_every=1_000,
            save_every=1_000,
        ),
        row=ROW,
        loss_chunk=128,
        loss_neighbours=4,
        z_loss=1e-4,
    )
