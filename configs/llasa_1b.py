"""Llasa-1B as the paper trained it: Llama 3.2 1B with speech in its vocabulary.

    llasa train llasa_1b --tokens runs/speech/tokens --model runs/speech --out runs/llasa_1b
    llasa plan llasa_1b --program train --topology v6e:4x4 --json

16 layers of 2,048, 32 heads over 8, tied embeddings: 1.370 B parameters, 0.397 B of them the table
of 193,800 ids (194,048 inside).

The paper's run: 250,000 hours, three epochs, 155e9 tokens in packed rows of 2,048, batches of 2 M
tokens (73,807 steps), AdamW at 5e-5, warm-up of 3 %, cosine to a tenth; bfloat16 products, float32
parameters. A token costs 8.4e9 FLOPs, the run 1.3e21: about 980 chip-hours of v6e at 40 % of its
peak (estimated). Nobody has run it to its end here.
"""

from llasa_jax.config import DecoderRun
from llasa_jax.lm.released import LLASA_1B, paper_run


def get_config() -> DecoderRun:
    return paper_run(LLASA_1B)
