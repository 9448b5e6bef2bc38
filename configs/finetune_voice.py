"""One voice for Llasa-1B, all its parameters trained: two epochs of five hours of it.

    llasa convert xcodec2/model.safetensors --out models/voice
    llasa data prepare recordings/ --model models/voice --out runs/voice/tokens \\
        --tokenizer Llasa-1B
    llasa train finetune_voice --tokens runs/voice/tokens --model models/voice \\
        --out runs/voice/lm --init Llasa-1B

`Llasa-1B` is the published folder; `recordings/` has a .wav or .flac beside a .txt for a sentence.
1.370 B parameters at a peak of 1e-5, as the published fine-tuning has it. Five hours are 504 packed
rows of 2,048; 8 of them a step, two at a time: 126 steps, 2.1e6 tokens, 1.7e16 FLOPs, a minute of
one v6e chip at 40 % of its peak (estimated; parameters, optimizer and gradients are 22 GB). For
more or less speech set `train.steps` to a quarter of its rows. Nobody has run it here.
"""

from dataclasses import replace

from llasa_jax.config import DecoderRun, OptimizerConfig
from llasa_jax.lm.released import LLASA_1B, TOKENS_AN_HOUR, paper_run

HOURS, EPOCHS, ROWS = 5, 2, 8


def get_config() -> DecoderRun:
    run = paper_run(LLASA_1B, HOURS)
    train = replace(
        run.train,
        steps=round(EPOCHS * HOURS * TOKENS_AN_HOUR / (ROWS * run.row)),
        batch=ROWS,
        accumulate=4,
        optimizer=OptimizerConfig(peak=1e-5),
        log_every=1,
        valid_every=20,
        save_every=20,
    )
    return replace(run, train=train)
