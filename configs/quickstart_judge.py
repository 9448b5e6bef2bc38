"""The judge where pocketsphinx knows no word: a transformer CTC recogniser of its own data.

    llasa quickstart --corpus fillets-nl

2.1 M parameters, 450 steps of 16 sentences; trained on the half of the recordings that the content
verifier does not see. Expected: 70 s on 2 cores; its error rate stands in the report.
"""

from llasa_jax.config import OptimizerConfig, RecogniserConfig, RecogniserRun, TrainConfig


def get_config() -> RecogniserRun:
    return RecogniserRun(
        recogniser=RecogniserConfig(kind="transformer", dim=192, layers=4, heads=4),
        train=TrainConfig(
            steps=450,
            batch=16,
            spike_sigmas=0.0,
            optimizer=OptimizerConfig(kind="muon", peak=2e-3, final=0.02, warmup=0.05),
            log_every=50,
            valid_every=10**9,
            save_every=150,
        ),
    )
