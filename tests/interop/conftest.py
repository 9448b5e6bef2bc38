"""X-Codec2 in miniature: every part that a published checkpoint holds, in 200 thousand numbers."""

from dataclasses import replace

import numpy as np
import pytest

from llasa_jax import nn
from llasa_jax.codec.model import Codec
from llasa_jax.config import CodecConfig, ConvConfig, SemanticConfig, TransformerConfig
from llasa_jax.interop.bundle import flatten, unflatten

XCODEC2 = CodecConfig(
    spectral=None,
    conv=ConvConfig(channels=2, strides=(4, 4, 20), dim=64),
    semantic=SemanticConfig(dim=32, ffn=48, layers=2, heads=4, mel_bins=8, conv_width=5, left=6),
    decoder=TransformerConfig(dim=64, ffn=96, layers=3, heads=1),
)
NEUCODEC = replace(XCODEC2, output_rate=24000, semantic=replace(XCODEC2.semantic, edge=0))


def random_params(config):
    """Every parameter random, none zero."""
    rng = np.random.default_rng(0)
    _, template = nn.abstract(lambda rngs: Codec(config, rngs=rngs))
    leaves = flatten(template)
    flat = {key: rng.standard_normal(leaf.shape, np.float32) for key, leaf in leaves.items()}
    return unflatten(template, flat)


@pytest.fixture(scope="session")
def codecs():
    """layout -> (configuration that fits it, random parameters)."""
    configs = {"xcodec2": XCODEC2, "transformers": XCODEC2, "neucodec": NEUCODEC}
    params = {config: random_params(config) for config in {XCODEC2, NEUCODEC}}
    return {layout: (config, params[config]) for layout, config in configs.items()}
