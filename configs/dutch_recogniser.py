"""The Dutch voice's recogniser: the shipped one, trained on with half of the recorded dialogues.

    llasa train dutch_recogniser --init llasa_jax/nano --store runs/dutch/corpus --out runs/dutch

Every other of the training recordings, half an hour, played at up to 1.15 times their speed or as
much slower; `dutch_judge` hears the others. 1,000 steps of 16.
"""

from dataclasses import replace

from llasa_jax.config import OptimizerConfig, RecogniserRun, load_config


def get_config() -> RecogniserRun:
    run = load_config("voice_recogniser", RecogniserRun)
    train = replace(
        run.train,
        steps=1000,
        optimizer=OptimizerConfig(peak=1e-3, final=0.02, warmup=0.05, beta2=0.98),
        valid_every=500,
        save_every=250,
    )
    return replace(run, train=train, part=(0, 2), speed=1.15)
