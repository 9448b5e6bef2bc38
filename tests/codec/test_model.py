from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llasa_jax import nn
from llasa_jax.codec.model import Codec

FRAMES = 11


@pytest.fixture(scope="module")
def found(tiny, sound):
    """What the scanned and the unrolled codec make of one wave."""
    config, params = tiny
    wave = np.stack([sound(FRAMES * config.hop), sound(FRAMES * config.hop)])
    mask = jnp.ones((2, FRAMES))
    configs = (config, replace(config, scan_layers=False))
    definitions = [nn.abstract(lambda rngs, c=c: Codec(c, rngs=rngs))[0] for c in configs]

    def run(params, graphdef):
        model = nn.merge(graphdef, params)
        latents = model.latents(wave, mask)
        codes, rebuilt = model.encode(wave, mask), model.rebuild(latents, mask)
        return latents, codes, rebuilt, model.decode(codes, mask)

    return jax.device_get(jax.jit(lambda p: [run(p, graphdef) for graphdef in definitions])(params))


def test_scanned_and_unrolled_layers_agree(found):
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5 * np.abs(a).max())


def test_one_code_a_hop_and_a_hop_of_samples_a_code(tiny, found):
    latents, codes, rebuilt, decoded = found[0]
    assert latents.shape == (2, FRAMES, 3) and latents.dtype == np.float32
    assert codes.shape == (2, FRAMES) and codes.dtype == np.int32
    assert 0 <= codes.min() and codes.max() < tiny[0].codebook_size == 60
    assert len(np.unique(codes)) > 5
    assert rebuilt.shape == (2, FRAMES * tiny[0].hop) and np.abs(rebuilt).max() > 1e-3
    np.testing.assert_allclose(rebuilt, decoded, atol=1e-5 * np.abs(rebuilt).max())
