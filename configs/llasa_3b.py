"""Llasa-3B as the paper trained it: Llama 3.2 3B with speech in its vocabulary.

    llasa train llasa_3b --tokens runs/speech/tokens --model runs/speech --out runs/llasa_3b
    llasa plan llasa_3b --program train --topology v6e:8x8 --json

28 layers of 3,072, 24 heads over 8, tied embeddings: 3.414 B parameters, 0.595 B of them the table
of 193,800 ids (194,048 inside).

The paper's run: 250,000 hours, three epochs, 155e9 tokens in packed rows of 2,048, batches of 2 M
tokens (73,807 steps), AdamW at 5e-5, warm-up of 3 %, cosine to a tenth; bfloat16 products, float32
parameters. A token costs 2.1e10 FLOPs, the run 3.2e21: about 2,400 chip-hours of v6e at 40 % of its
peak (estimated). Nobody has run it to its end here.
"""

from llasa_jax.config import DecoderRun
from llasa_jax.lm.released import LLASA_3B, paper_run


def get_config() -> DecoderRun:
    return paper_run(LLASA_3B)
