"""Search distilled into the nano voice: its own best takes beside the recordings it learned from.

    llasa data distil voice_takes --model MODEL --out runs/voice/takes
    llasa train voice_distil --init MODEL --model MODEL --tokens TOKENS --out RUN

The same decoder as `voice_guided`, begun with what that left in MODEL. Of ten rows six are takes
that the in-project recogniser preferred, each after its voice's prompt; the others are TOKENS', so
that nothing is forgotten. 15 % of the texts stay blank, for guidance.
1,500 steps of 4 rows of 512 (3.1 M tokens, 8e13 FLOPs) are about an epoch of 5,000 takes, and take
15 minutes on 2 cores. MODEL's language model is written anew: train on a copy of the folder to keep
both.
"""

from dataclasses import replace

from llasa_jax.config import DecoderRun, OptimizerConfig, SourceConfig, load_config


def get_config() -> DecoderRun:
    run = load_config("voice_lm", DecoderRun)
    train = replace(
        run.train,
        steps=1500,
        optimizer=OptimizerConfig(kind="muon", peak=5e-4, final=0.02, weight_decay=0.1),
        keep_every=500,
    )
    sources = (
        SourceConfig(kind="generation", weight=0.3),
        SourceConfig(kind="understanding", weight=0.1),
        SourceConfig(kind="generation", weight=0.6, folder="runs/voice/takes"),
    )
    return replace(run, train=train, sources=sources, guide=None, blank_texts=0.15)
