"""One voice for Llasa-1B by low-rank adapters, in less memory than all its parameters take.

    llasa train finetune_voice_lora --tokens runs/voice/tokens --model models/voice \\
        --out runs/voice/lora --init Llasa-1B

Data and commands before it as in `finetune_voice`. Adapters of rank 8 and alpha 32 beside the query
and value projections, 0.85 M of 1.370 B parameters, at a peak of 5e-4, as the published fine-tuning
has it, without its dropout. 126 steps, 2.1e6 tokens, 1.2e16 FLOPs: a minute of one v6e chip at 40 %
of its peak (estimated); parameters, optimizer and gradients are 5.5 GB. Nobody has run it here.
"""

from dataclasses import replace

from llasa_jax.config import DecoderRun, LoraConfig, OptimizerConfig, load_config


def get_config() -> DecoderRun:
    run = load_config("finetune_voice", DecoderRun)
    return replace(
        run,
        lm=replace(run.lm, lora=LoraConfig(rank=8, alpha=32.0, targets=("q", "v"))),
        train=replace(run.train, optimizer=OptimizerConfig(peak=5e-4)),
    )
