"""The shipped voice's language model, trained on with the codes of recorded Dutch.

    llasa data prepare runs/dutch/corpus --model runs/dutch/model --out runs/dutch/tokens \\
        --tokenizer english --set row=512 --set 'kinds=["generation", "understanding"]' \\
        --set 'speeds=[0.9, 1.1]'
    llasa train dutch_lm --init llasa_jax/nano --tokens runs/dutch/tokens \\
        --model runs/dutch/model --out runs/dutch/lm

It has read English, and sounds like letters help. Both directions, 15 % of the texts blank for
guidance, each recording at three speeds; 1,500 steps of 4 rows of 512: 3.1 M tokens, 8e13 FLOPs,
25 minutes of one CPU core.
"""

from dataclasses import replace

from llasa_jax.config import DecoderRun, OptimizerConfig, load_config


def get_config() -> DecoderRun:
    run = load_config("voice_lm", DecoderRun)
    train = replace(
        run.train,
        steps=1500,
        optimizer=OptimizerConfig(
            kind="muon", peak=1e-3, final=0.02, warmup=0.05, weight_decay=0.1
        ),
        valid_every=250,
        keep_every=0,
    )
    return replace(run, train=train, guide=None, blank_texts=0.15)
