"""The nano voice's own best takes, to distil search into it: `llasa train voice_distil`.

    llasa data distil voice_takes --model MODEL --out runs/voice/takes

2,000 sentences of the training split, text alone, by all voices in turn, 16 takes of each. The
in-project recogniser keeps up to three that are better than the sentence's median and cost it less
than 1.5 nats a letter. 2.5 M codes are drawn, an hour's work of one CPU core.
"""

from llasa_jax.config import DistilRun, SelectConfig


def get_config() -> DistilRun:
    return DistilRun(
        sentences=2000,
        candidates=16,
        keep=3,
        select=(SelectConfig("content", least=-1.5),),
        gain=0.1,
        slots=128,
        item=64,
        row=512,
    )
