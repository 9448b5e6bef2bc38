"""The shipped voice's codec, trained on with recorded Dutch: what it hears and says is people.

    llasa data prepare fillets-nl --out runs/dutch/corpus
    llasa codec train dutch_codec --init llasa_jax/nano --store runs/dutch/corpus --out runs/dutch

The shapes of `voice_codec`, begun with its weights, its teacher's too. 1,500 steps of 8 crops of
2.56 s, each played at up to 1.15 times its speed or as much slower: 8.5 hours of audio drawn from
the 63 minutes of two speakers, 20 minutes of one CPU core. The recordings are under the GPL: what
comes of them does not ship.
"""

from dataclasses import replace

from llasa_jax.config import CodecRun, OptimizerConfig, load_config


def get_config() -> CodecRun:
    run = load_config("voice_codec", CodecRun)
    train = replace(
        run.train,
        steps=1500,
        optimizer=OptimizerConfig(
            kind="muon", peak=1e-3, final=0.02, warmup=0.05, beta1=0.8, beta2=0.95
        ),
        valid_every=500,
    )
    return replace(run, train=train, recorded_share=1.0, speed=1.15)
