"""Llasa-8B as the paper trained it: Llama 3.1 8B with speech in its vocabulary.

    llasa train llasa_8b --tokens runs/speech/tokens --model runs/speech --out runs/llasa_8b
    llasa plan llasa_8b --program train --topology v6e:16x16 --json

32 layers of 4,096, 32 heads over 8, a head of its own: 8.567 B parameters, 1.588 B of them the
tables of 193,800 ids (194,048 inside).

The paper's run: 250,000 hours, three epochs, 155e9 tokens in packed rows of 2,048, batches of 2 M
tokens (73,807 steps), AdamW at 5e-5, warm-up of 3 %, cosine to a tenth; bfloat16 products, float32
parameters. A token costs 4.7e10 FLOPs, the run 7.3e21: about 5,500 chip-hours of v6e at 40 % of its
peak (estimated). Nobody has run it to its end here.
"""

from llasa_jax.config import DecoderRun
from llasa_jax.lm.released import LLASA_8B, paper_run


def get_config() -> DecoderRun:
    return paper_run(LLASA_8B)
