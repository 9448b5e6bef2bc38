"""The language model of `llasa quickstart`: a Llama of the 1B's class, for minutes on a CPU.

    llasa train quickstart_lm --tokens runs/mine/tokens --model runs/mine --out runs/mine/lm

4 layers of 192, grouped-query attention, tied embeddings, the built-in byte tokenizer (267 ids), 8
tags and 16,384 codes: 4.9 M parameters, 3.2 M of them the table. Steps of 8 rows of 512 (4,096
tokens, 1.2e11 FLOPs); 100 s on 2 cores allow 80 to 150 of the 700. Expected: 6.6 nats a code after
136 steps, where a Kneser-Ney bigram has 8.1. It is not intelligible.
"""

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
