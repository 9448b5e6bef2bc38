"""Run by test_batch.py in a process with eight devices: a `BatchCodec` on all, a model on one.

Prints JSON: codes that differ, and the largest difference of the waves, of peak.
"""

import json

import jax
import jax.numpy as jnp
import numpy as np

jax.config.update("jax_num_cpu_devices", 8)

from llasa_jax import nn  # noqa: E402
from llasa_jax.codec.batch import BatchCodec  # noqa: E402
from llasa_jax.codec.model import Codec  # noqa: E402
from llasa_jax.config import CodecConfig, SpectralConfig, TransformerConfig  # noqa: E402

SMALL = TransformerConfig(dim=16, ffn=32, layers=2, heads=2)
CONFIG = CodecConfig(
    sample_rate=1600,
    output_rate=1600,
    hop=32,
    levels=(4, 4, 4),
    spectral=SpectralConfig(mel_bins=8, transformer=SMALL),
    decoder=SMALL,
    norm_groups=4,
)

graphdef, shapes = nn.abstract(lambda rngs: Codec(CONFIG, rngs=rngs))
random = np.random.default_rng(0)
params = jax.tree.map(lambda p: 0.3 * random.normal(size=p.shape).astype(p.dtype), shapes)
waves = [random.normal(size=32 * n).astype(np.float32) for n in 9 * (40, 100)]

codec = BatchCodec(CONFIG, params, batch=2)
codes = codec.encode(waves)
sounds = codec.decode(codes)
spread = {len(leaf.sharding.device_set) for leaf in jax.tree.leaves(codec._model[1])}

encode = jax.jit(lambda *inputs: nn.merge(graphdef, params).encode(*inputs))
decode = jax.jit(lambda *inputs: nn.merge(graphdef, params).decode(*inputs))
differing, error = 0, 0.0
for wave, found, sound in zip(waves, codes, sounds, strict=True):
    mask = jnp.ones((1, len(found)))
    differing += int((np.asarray(encode(wave[None], mask))[0] != found).sum())
    alone = np.asarray(decode(found[None], mask))[0]
    error = max(error, float(np.abs(alone - sound).max() / np.abs(alone).max()))
print(json.dumps({"devices": max(spread), "differing": differing, "error": error}))
