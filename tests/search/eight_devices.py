"""Run in a process of its own: what is drawn on meshes of eight devices, against one, as JSON."""

import json

import jax
import numpy as np
from flax import nnx

jax.config.update("jax_num_cpu_devices", 8)

from llasa_jax import nn  # noqa: E402
from llasa_jax.config import DecoderConfig  # noqa: E402
from llasa_jax.lm.model import Decoder  # noqa: E402
from llasa_jax.lm.vocabulary import nano_vocabulary  # noqa: E402
from llasa_jax.parallel.mesh import make_mesh  # noqa: E402
from llasa_jax.search.sampler import Sampler  # noqa: E402

VOCABULARY = nano_vocabulary(40)
LM = DecoderConfig(
    dim=32, ffn=48, layers=2, heads=4, kv_heads=2, head_dim=8, text_vocab=267, codes=40
)
MESHES = (dict(data=8), dict(data=4, tensor=2), dict(data=2, fsdp=2, tensor=2))


def main() -> None:
    graphdef, params = nn.split(Decoder(LM, rngs=nnx.Rngs(0)))
    params |= {"embedding": 20 * params["embedding"]}
    texts = ["Hello there.", "A longer sentence, of a few words more.", "Yes", "No, never."] * 3
    prompts = [VOCABULARY.prompt(text) for text in texts]
    bounds = dict(min_codes=[3] * 12, max_codes=[20, 50, 30] * 4)
    runs = {}
    for sizes in ({}, *MESHES):
        mesh = make_mesh(**({"fsdp": 1} | sizes)) if sizes else None
        drawn = Sampler(graphdef, params, VOCABULARY, slots=16, columns=2, room=64, mesh=mesh)
        name = " ".join(f"{axis}={size}" for axis, size in sizes.items())
        runs[name] = sum(drawn(prompts, candidates=3, seed=0, **bounds), [])
    expected, found = runs.pop(""), {}
    for name, takes in runs.items():
        same = [
            (one, two)
            for one, two in zip(expected, takes, strict=True)
            if one.codes.tolist() == two.codes.tolist()
        ]
        nats = max(abs(one.log_probability - two.log_probability) for one, two in same)
        found[name] = {"equal": len(same) / len(takes), "nats": float(np.float64(nats))}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
