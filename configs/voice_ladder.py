"""A ladder of models like the shipped voice, from 2e12 to 6e13 FLOPs, and the runs it forecasts.

    llasa sweep voice_ladder --tokens TOKENS --model MODEL --out runs/ladder --dry-run
    llasa sweep voice_ladder --tokens TOKENS --model MODEL --out runs/ladder
    llasa fit runs/ladder/runs.csv --plan voice_ladder --out results/scaling

Widths 32 to 256, 0.2 M to 4.3 M parameters, at six budgets; the token rows of docs/voice.md, both
directions. More seeds at three points; and one model on three sizes of data, three passes over
each, as the paper's 80,000, 160,000 and 250,000 hours (0.26, 0.53 and 0.79 M different tokens).
37 runs, 7.9e14 FLOPs: 4.3 hours as they were run, on one or two CPU cores, the held-out one of
width 192 another 1.2. Smaller models than those of 2e13 FLOPs have hardly begun to read, and no law
is fitted to them: from there on a law forecasts the largest budget best (docs/scaling.md). Held out
are runs of 4 times the largest budget that is fitted.
"""

from llasa_jax.config import DecoderRun, RungConfig, SweepPlan, load_config


def get_config() -> SweepPlan:
    kept = ["train.save_every=500", "train.keep_every=0"]
    return SweepPlan(
        run=load_config("voice_lm", DecoderRun, kept),
        rungs=(
            RungConfig(2e12, (32, 48, 64, 96, 128)),
            RungConfig(6e12, (48, 64, 96, 128, 160)),
            RungConfig(2e13, (96, 128, 192)),
            RungConfig(6e12, (96,), seeds=(1, 2)),
            # Three passes: a third of the budget is that of a third of the tokens.
            RungConfig(1e13 / 3, (96,), data=(0.04,)),
            RungConfig(2e13 / 3, (96,), data=(0.08,)),
            RungConfig(1e13, (96,), data=(0.12,)),
            RungConfig(6e13, (128, 192, 256)),
            RungConfig(2e13, (64,)),
            RungConfig(6e13, (96,)),
            RungConfig(1.2e13, (64, 96, 128, 192)),
            RungConfig(2e13, (160, 256)),
            RungConfig(3.5e13, (256, 192, 128, 96, 64)),
            RungConfig(6e13, (160,)),
            RungConfig(3.5e13, (128, 192), seeds=(1,)),
            RungConfig(2.4e14, (256, 192), held_out=True),
        ),
        fitted_from=2e13,
        flops_s=7e10,
    )
