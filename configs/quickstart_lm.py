"""The language model of `llasa quickstart`: a Llama of the 1B's class, for minutes on a CPU."""

from llasa_jax.config import DecoderConfig, DecoderRun, OptimizerConfig, TrainConfig


def get_config() -> DecoderRun:
    return DecoderRun(
        lm=DecoderConfig(
            dim=192,
            ffn=512,
            layers=4,
            heads=4,
            kv_heads=2,
            head_dim=48,
            text_vocab=267,
            codes=4**7,
            scan_layers=False,
        ),
        train=TrainConfig(
            steps=700,
            batch=8,
            optimizer=OptimizerConfig(kind="muon", peak=3e-3, final=0.02, weight_decay=0.1),
            valid_every=100,
            save_every=200,
        ),
        row=512,
        loss_chunk=32,
    )
