from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llasa_jax import nn
from llasa_jax.codec.decoder import Decoder

WINDOW, FRAMES = 2, 44


CASES = {"whole": (False, 1), "causal": (True, 1), "three frames a code": (True, 3)}


@pytest.fixture(scope="module", params=CASES.values(), ids=CASES)
def made(request, tiny, fill):
    """A decoder alone, at half as high a rate again: configuration, definition, parameters."""
    causal, frames = request.param
    config = replace(tiny[0], causal=causal, window=WINDOW, output_rate=2400, istft_frames=frames)
    graphdef, _ = nn.abstract(lambda rngs: Decoder(config, rngs=rngs))
    return config, graphdef, fill(config)["decoder"]


def features(config, frames=FRAMES):
    rng = np.random.default_rng(5)
    return rng.normal(size=(2, frames, config.decoder.dim)).astype(np.float32)


def test_a_causal_decoder_sees_exactly_its_contexts(made):
    config, graphdef, params = made
    (left, right), hop = nn.merge(graphdef, params).reach, config.output_hop
    at = 6 + 16 + 2 * WINDOW + 2 + 5  # two layers
    assert not config.causal or right == (1 if config.istft_frames == 3 else 2)

    @jax.jit
    @jax.grad
    def slope(x):
        wave = nn.merge(graphdef, params)(x, jnp.ones(x.shape[:2]))
        return jnp.sum(jnp.square(wave[:, at * hop : (at + 1) * hop]))

    seen = np.flatnonzero(np.abs(slope(features(config))).max((0, 2)))
    if config.causal:
        left += 2 * WINDOW
        assert seen.tolist() == list(range(at - left, at + right + 1))
    else:
        assert seen.tolist() == list(range(FRAMES))


def test_padding_changes_nothing(made):
    config, graphdef, params = made
    x, lengths = features(config, 12), (12, 7)
    run = jax.jit(lambda x, mask: nn.merge(graphdef, params)(x, mask))
    found = run(x, np.float32(np.arange(12) < np.array(lengths)[:, None]))
    assert found.shape == (2, 12 * config.output_hop) and found.dtype == jnp.float32
    for row, item, length in zip(found, x, lengths, strict=True):
        alone = np.asarray(run(item[None, :length], np.ones((1, length))))[0]
        assert alone.std() > 1e-3
        np.testing.assert_allclose(row[: len(alone)], alone, atol=1e-5 * np.abs(alone).max())
