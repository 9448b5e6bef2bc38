"""Llasa-1B on 80,000 hours, a third of the paper's speech drawn at random.

    llasa train llasa_1b_80k --tokens runs/speech/tokens --model runs/speech --out runs/1b_80k

The model and the recipe are those of `llasa_1b`: 1.370 B parameters, three epochs, batches of 2 M
tokens. 49.5e9 tokens (23,618 steps) cost 4.2e20 FLOPs, about 310 chip-hours of v6e at 40 % of its
peak (estimated). The paper's errs in 2.69 % of characters and 3.71 % of words on
seed-tts-eval zh and en, 17.11 % on its hard cases (table 2, plain sampling). Nobody has run it
to its end here.
"""

from llasa_jax.config import DecoderRun
from llasa_jax.lm.released import LLASA_1B, paper_run


def get_config() -> DecoderRun:
    return paper_run(LLASA_1B, hours=80_000)
