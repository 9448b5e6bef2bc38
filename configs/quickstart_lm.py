"""The language model of `llasa quickstart`: a Llama of the 1B's class, for minutes on a CPU.

    llasa train quickstart_lm --tokens runs/mine/tokens --model runs/mine --out runs/mine/lm

4 layers of 192, grouped-query attention, tied embeddings, the built-in byte tokenizer (267 ids), 8
tags and 16,384 codes: 4.9 M parameters, 3.2 M of them the table. Steps of 4 rows of 512 (2,048
tokens, 6e10 FLOPs); 100 s on 2 cores allow about 200 of the 1,400. Expected: 6.8 nats a code, where
a Kneser-Ney bigram has 8.2. It is not intelligible.

Small batches learn more from as many tokens: 200 steps of 4 rows gave 6.80 nats and 95 % of
sentences that stop in time (three seeds), 102 steps of 8 rows 7.00 and 84 %.
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
            steps=1400,
            batch=4,
            optimizer=OptimizerConfig(kind="muon", peak=3e-3, final=0.02, weight_decay=0.1),
            valid_every=200,
            save_every=200,
        ),
        row=512,
        loss_chunk=32,
    )
