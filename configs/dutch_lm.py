"""The shipped voice's language model, trained on with the codes of recorded Dutch.

    llasa data prepare runs/dutch/corpus --model runs/dutch/model --out runs/dutch/tokens \\
        --tokenizer english --set row=512 --set 'kinds=["generation", "understanding"]' \\
        --set 'speeds=[0.9, 1.1]'
    llasa data prepare runs/voice/corpus --model runs/dutch/model --out runs/dutch/english-tokens \\
        --tokenizer english --set row=512 --set 'kinds=["generation", "understanding"]'
    llasa train dutch_lm --init llasa_jax/nano --tokens runs/dutch/tokens \\
        --model runs/dutch/model --out runs/dutch/lm

It has read English, but the codes of `dutch_codec` are not those that it learned: four of ten rows
are flite's English in the new codes. Of an hour of Dutch alone it learns by heart: after 750 steps
its validation loss rose, though what is heard is no worse (docs/dutch.md). Both directions, 15 % of
the texts blank for guidance, each recording at three speeds; 2,000 steps of 4 rows of 512: 4.1 M
tokens, 1.1e14 FLOPs, 30 minutes of one CPU core.
"""

from dataclasses import replace

from llasa_jax.config import DecoderRun, OptimizerConfig, SourceConfig, load_config

ENGLISH = "runs/dutch/english-tokens"


def get_config() -> DecoderRun:
    run = load_config("voice_lm", DecoderRun)
    optimizer = OptimizerConfig(kind="muon", peak=1e-3, final=0.02, warmup=0.05, weight_decay=0.1)
    train = replace(run.train, steps=2000, optimizer=optimizer, valid_every=250, keep_every=500)
    sources = (
        SourceConfig(kind="generation", weight=0.45),
        SourceConfig(kind="understanding", weight=0.15),
        SourceConfig(kind="generation", weight=0.3, folder=ENGLISH),
        SourceConfig(kind="understanding", weight=0.1, folder=ENGLISH),
    )
    return replace(run, train=train, sources=sources, guide=None, blank_texts=0.15)
