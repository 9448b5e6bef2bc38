"""Llasa-1B on 160,000 hours, two thirds of the paper's speech drawn at random.

    llasa train llasa_1b_160k --tokens runs/speech/tokens --model runs/speech --out runs/1b_160k

The model and the recipe are those of `llasa_1b`: 1.370 B parameters, three epochs, batches of 2 M
tokens. 99.1e9 tokens (47,236 steps) cost 8.3e20 FLOPs, about 630 chip-hours of v6e at 40 % of its
peak (estimated). The paper's errs in 2.22 % of characters and 3.60 % of words on
seed-tts-eval zh and en, 16.73 % on its hard cases (table 2, plain sampling). Nobody has run it
to its end here.
"""

from llasa_jax.config import DecoderRun
from llasa_jax.lm.released import LLASA_1B, paper_run


def get_config() -> DecoderRun:
    return paper_run(LLASA_1B, hours=160_000)
