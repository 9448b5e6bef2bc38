"""A codec of a few thousand random parameters that uses its whole small codebook."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from llasa_jax import nn
from llasa_jax.codec.model import Codec
from llasa_jax.config import (
    CodecConfig,
    ConvConfig,
    SemanticConfig,
    SpectralConfig,
    TransformerConfig,
)

TINY = CodecConfig(
    sample_rate=1600,
    hop=32,
    output_rate=1600,
    levels=(4, 3, 5),
    spectral=SpectralConfig(
        mel_bins=8, transformer=TransformerConfig(dim=16, ffn=24, layers=2, heads=2)
    ),
    decoder=TransformerConfig(dim=8, ffn=24, layers=2, heads=2),
    norm_groups=2,  # of four channels: of two channels of one frame, a norm leaves the signs
)

# X-Codec2 in miniature: convolutions on the wave, filter banks through a conformer.
MINIATURE = replace(
    TINY,
    spectral=None,
    conv=ConvConfig(channels=4, strides=(4, 8), dim=8),
    semantic=SemanticConfig(
        **dict(dim=8, ffn=16, layers=2, heads=2, mel_bins=4, conv_width=5),
        **dict(left=4, right=2, edge=16),
    ),
)


def random_params(config, seed=0):
    """Kernels of variance 1 / fan-in, scales about 1, biases about 0: nothing is trivial."""
    rng = np.random.default_rng(seed)
    _, template = nn.abstract(lambda rngs: Codec(config, rngs=rngs))

    def fill(path, leaf):
        names = [entry.key for entry in path]
        x = rng.normal(size=leaf.shape).astype(np.float32)
        if "project_in" in names:
            return 0.4 * x * (names[-1] == "kernel")  # so that all levels occur
        if names[-1] == "kernel":
            return x / np.sqrt(np.prod(leaf.shape["layers" in names : -1]))
        if names[-1] == "bias":
            return 0.1 * x
        return 0.3 * x + (names[-1] in ("scale", "gain"))

    return jax.tree_util.tree_map_with_path(fill, template)


@pytest.fixture(scope="session")
def tiny():
    """(configuration, parameters)."""
    return TINY, random_params(TINY)


@pytest.fixture(scope="session")
def miniature():
    """(configuration, parameters)."""
    return MINIATURE, random_params(MINIATURE, 6)


@pytest.fixture(scope="session")
def sound():
    """size -> wave: every hop another tone and another loudness, so that codes differ."""
    rng = np.random.default_rng(0)

    def make(size):
        hops = -(-size // TINY.hop)
        turns, level = rng.uniform(0.02, 0.5, hops), 10 ** rng.uniform(-3, -0.5, hops)
        phase = 2 * np.pi * np.cumsum(np.repeat(turns, TINY.hop))
        return (np.repeat(level, TINY.hop) * np.sin(phase))[:size].astype(np.float32)

    return make


@pytest.fixture(scope="session")
def fill():
    """(configuration, seed=0) -> random parameters."""
    return random_params
