"""One's own voice out of the shipped one: all its parameters trained on, for minutes on a CPU.

    llasa voices train RECORDINGS --name NAME --consent --out FOLDER

is all that it takes: it prepares the recordings, trains, and leaves a model folder with the voice
(docs/tutorial.md). By hand, after `llasa data prepare RECORDINGS --model MODEL --out TOKENS
--set row=512 --set 'kinds=["generation", "understanding"]'`:

    llasa train finetune_nano --tokens TOKENS --model MODEL --out RUN --init MODEL

4.3 M parameters at a tenth of the peak they were trained with, 1,000 steps of 4 rows of 512: 2.0 M
tokens, 5.3e13 FLOPs, 10 minutes on 2 CPU cores (estimated from the 70 that 7,000 steps took).
"""

from dataclasses import replace

from llasa_jax.config import DecoderRun, OptimizerConfig, load_config


def get_config() -> DecoderRun:
    run = load_config("voice_lm", DecoderRun)
    train = replace(
        run.train,
        steps=1000,
        optimizer=OptimizerConfig(kind="muon", peak=3e-4, final=0.1, warmup=0.05, weight_decay=0.1),
        valid_every=100,
        save_every=100,
        keep_every=0,
    )
    return replace(run, train=train, guide=None)
