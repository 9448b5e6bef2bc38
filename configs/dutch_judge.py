"""Who judges the Dutch voice: a transformer, where what chooses its takes is convolutional.

    llasa train dutch_judge --init runs/dutch/judge-en --store runs/dutch/corpus \\
        --out runs/dutch/judge

Trained on the half of the recorded dialogues that `dutch_recogniser` does not hear. It begins with
what `quickstart_judge` learned of flite's English in 1,500 steps (launch/dutch.sh): half an hour
is too little to learn from nothing.
"""

from dataclasses import replace

from llasa_jax.config import OptimizerConfig, RecogniserRun, load_config


def get_config() -> RecogniserRun:
    run = load_config("quickstart_judge", RecogniserRun)
    train = replace(
        run.train,
        steps=1000,
        optimizer=OptimizerConfig(kind="muon", peak=1e-3, final=0.02, warmup=0.05),
        valid_every=500,
        save_every=250,
    )
    return replace(run, train=train, part=(1, 2), speed=1.15)
