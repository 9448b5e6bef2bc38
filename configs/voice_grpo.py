"""GRPO on the nano voice: what its recogniser thinks of its own takes moves it, no recordings.

    llasa train voice_grpo --init MODEL --model MODEL --out RUN

The same decoder as `voice_lm`, begun with what that left in MODEL. A step learns from 8 takes of
each of 4 training sentences, text alone, by all voices in turn, drawn by the model as it then is at
the temperature that it ships with. The reward is minus the recogniser's CTC loss a letter, -4 at
least. 150 steps: 4,800 takes, 0.4 M codes, 36 minutes of one core beside other work. MODEL's
language model is written anew: train on a copy of the folder to keep both.

The rate is a fifth of the first one tried: at a peak of 2e-4 the reward of 32 sentences fell from
-1.5 to -2.3 in 24 steps, and rose again only as the rate fell. Run to its end, this one left the
reward where it was (docs/search.md).
"""

from llasa_jax.config import (
    DecoderRun,
    GrpoRun,
    OptimizerConfig,
    SelectConfig,
    TrainConfig,
    load_config,
)


def get_config() -> GrpoRun:
    return GrpoRun(
        lm=load_config("voice_lm", DecoderRun).lm,
        train=TrainConfig(
            steps=150,
            batch=32,
            optimizer=OptimizerConfig(peak=4e-5, final=0.3, warmup=0.03, weight_decay=0.0),
            log_every=5,
            save_every=25,
        ),
        group=8,
        temperature=0.3,
        select=(SelectConfig("content", least=-4.0),),
        row=384,
        codes=160,
        loss_chunk=32,
    )
