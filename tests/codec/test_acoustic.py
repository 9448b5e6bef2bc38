import jax
import numpy as np
import pytest

from llasa_jax import nn
from llasa_jax.codec.acoustic import ConvEncoder

HOP, FRAMES = 32, 9


@pytest.fixture(scope="module")
def run(miniature):
    config, params = miniature
    graphdef, _ = nn.abstract(lambda rngs: ConvEncoder(config, rngs=rngs))
    encoder = params["encoder"]
    return jax.jit(lambda wave, mask: nn.merge(graphdef, encoder)(wave, mask))


@pytest.fixture(scope="module")
def wave():
    return np.random.default_rng(3).normal(size=(4, FRAMES * HOP)).astype(np.float32)


def test_a_padded_batch_gives_the_features_of_each_item_alone(run, wave):
    lengths = np.array([FRAMES, 5, 1, 0])
    found = np.asarray(run(wave, np.float32(np.arange(FRAMES) < lengths[:, None])))
    assert found.shape == (4, FRAMES, 8) and np.isfinite(found).all()
    for row, item, length in zip(found, wave, lengths, strict=True):
        if length:
            alone = np.asarray(run(item[None, : length * HOP], np.ones((1, length))))[0]
            assert alone.std() > 0.05
            np.testing.assert_allclose(row[:length], alone, atol=1e-4 * np.abs(alone).max())


def test_a_frame_hears_both_sides(run, wave):
    """Symmetric padding: what changes in the middle reaches features before and after it."""
    changed = wave.copy()
    changed[:, 4 * HOP + HOP // 2] += 1
    mask = np.ones((4, FRAMES), np.float32)
    moved = np.abs(run(changed, mask) - run(wave, mask)).max((0, 2))
    assert moved[4] > 1e-3 and moved[3] > 0 and moved[5] > 0
