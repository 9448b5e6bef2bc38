"""The language model of the nano voice: a Llama of the 1B's class, for hours on a CPU.

    llasa data prepare CORPUS --model MODEL --out TOKENS --set row=512 \\
        --set 'kinds=["generation", "understanding"]'
    llasa train voice_lm --tokens TOKENS --model MODEL --out RUN

4 layers of 256, grouped-query attention, tied embeddings, the byte tokenizer of spoken English (268
ids), 8 tags and 4,096 codes at 25 a second: 4.3 M parameters, 8.3 MiB in float16. Seven of ten rows
are text to speech, the others speech to text. 7,000 steps of 4 rows of 512: 14.2 M tokens, 3.8e14
FLOPs, 70 minutes on 2 shared cores. It ended at 3.65 nats a code, of which 3.30 by the text.

One head of the second layer is guided along the diagonal between text and speech (`lm.guide`) while
the run's first quarter lasts (docs/language-model.md). What it says: docs/voice.md.
"""

from llasa_jax.config import (
    DecoderConfig,
    DecoderRun,
    GuideConfig,
    OptimizerConfig,
    SourceConfig,
    TrainConfig,
)


def get_config() -> DecoderRun:
    return DecoderRun(
        lm=DecoderConfig(
            dim=256,
            ffn=768,
            layers=4,
            heads=4,
            kv_heads=2,
            head_dim=64,
            text_vocab=268,
            codes=4096,
            scan_layers=False,
        ),
        train=TrainConfig(
            steps=7000,
            batch=4,
            optimizer=OptimizerConfig(
                kind="muon", peak=3e-3, final=0.02, warmup=0.01, weight_decay=0.1
            ),
            valid_every=250,
            save_every=250,
            keep_every=1000,
        ),
        row=512,
        loss_chunk=64,
        sources=(
            SourceConfig(kind="generation", weight=0.7),
            SourceConfig(kind="understanding", weight=0.3),
        ),
        guide=GuideConfig(layers=(1,), weight=0.3, until=0.25),
    )
