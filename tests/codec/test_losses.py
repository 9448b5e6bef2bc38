import jax
import jax.numpy as jnp
import librosa
import numpy as np
import pytest

from llasa_jax.codec import losses
from llasa_jax.codec.losses import (
    feature_loss,
    judged_loss,
    masked_mse,
    mel_loss,
    spread_loss,
)


def noise(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.fixture(scope="module")
def mel():
    return jax.jit(lambda wave, target: mel_loss(wave, target, 16000))


def test_equal_waves_lose_nothing(mel):
    wave = noise(2, 2000)
    assert mel(wave, wave) == 0


def test_one_resolution_is_the_l1_distance_of_log10_mels(monkeypatch):
    monkeypatch.setattr(losses, "MEL_RESOLUTIONS", ((64, 10),))
    a, b = noise(2, 800), 0.1 * noise(2, 800, seed=1)

    def mel(wave):
        size = np.abs(librosa.stft(wave, n_fft=64, hop_length=16, pad_mode="reflect"))
        filters = librosa.filters.mel(sr=16000, n_fft=64, n_mels=10)
        return np.log10(np.maximum(filters @ size, 1e-5))

    expected = np.mean(np.abs(mel(a) - mel(b)))
    np.testing.assert_allclose(mel_loss(a, b, 16000), expected, rtol=1e-4)


def test_ten_times_the_sound_is_one_at_every_resolution(mel):
    """Seven resolutions, base 10; mel filters narrower than a bin are empty and do not differ."""
    found = 0.0
    for window, bins in losses.MEL_RESOLUTIONS:
        filters = librosa.filters.mel(sr=16000, n_fft=window, n_mels=bins)
        found += np.mean(filters.max(1) > 0)
    wave = noise(2, 2000)
    np.testing.assert_allclose(mel(10 * wave, wave), found, rtol=1e-3)


@pytest.fixture(scope="module")
def spread():
    return jax.jit(spread_loss)


def test_independent_centred_and_well_spread_dimensions_lose_nothing(spread):
    x = noise(4, 4000, 6)
    x = (x - x.mean((0, 1))) / x.std((0, 1)) * losses.SPREAD
    assert spread(x, np.ones((4, 4000))) < 1e-3


def test_copies_means_and_other_spreads_cost(spread):
    active = np.ones((4, 1000), np.float32)
    x = noise(4, 1000, 6)
    x = (x - x.mean((0, 1))) / x.std((0, 1)) * losses.SPREAD
    free = float(spread(x, active))
    two, six = x.copy(), np.repeat(x[..., :1], 6, axis=2)
    two[..., 1] = -x[..., 0]
    # c copies among 6 dimensions: c (c - 1) squared correlations of 1, over 6.
    np.testing.assert_allclose(spread(two, active), free + 2 / 6, atol=0.02)
    np.testing.assert_allclose(spread(six, active), free + 30 / 6, atol=0.02)
    np.testing.assert_allclose(spread(x + 0.5, active), free + 0.25, atol=1e-3)
    np.testing.assert_allclose(spread(2 * x, active), free + 0.64, atol=1e-3)


def test_silent_frames_do_not_count(spread):
    x = noise(2, 500, 3)
    active = np.float32(np.arange(500) < [[400], [100]])
    rest = 1 - active[..., None]
    found = spread(x + 100 * rest, active)
    np.testing.assert_allclose(found, spread(x * active[..., None], active), rtol=1e-4)
    alone = np.concatenate([x[0, :400], x[1, :100]])[None]
    np.testing.assert_allclose(found, spread(alone, np.ones((1, 500), np.float32)), rtol=1e-4)
    assert np.isfinite(spread(x, 0 * active))


def test_gradients_of_silence_are_finite(monkeypatch):
    monkeypatch.setattr(losses, "MEL_RESOLUTIONS", ((64, 10),))
    gradient = jax.jit(jax.grad(lambda wave: mel_loss(wave, noise(1, 400), 16000)))
    assert np.isfinite(gradient(jnp.zeros((1, 400)))).all()
    gradient = jax.jit(jax.grad(lambda x: spread_loss(x, jnp.zeros((1, 9)))))
    assert np.isfinite(gradient(jnp.zeros((1, 9, 3)))).all()


def judged(seed):
    """Features of two discriminators of three layers, the last their judgement."""
    shapes = ((2, 5, 3), (2, 4, 2), (2, 3, 1)), ((2, 9, 2), (2, 4, 4), (2, 2, 1))
    return [[noise(*shape, seed=seed + i) for shape in one] for i, one in enumerate(shapes)]


def test_judgements_are_to_reach_their_target():
    x = judged(0)
    expected = sum(np.mean((one[2] - 1) ** 2) for one in x)
    np.testing.assert_allclose(judged_loss(x, 1.0), expected, rtol=1e-6)
    np.testing.assert_allclose(judged_loss(x, 0.0), sum(np.mean(one[2] ** 2) for one in x))
    assert judged_loss([[jnp.ones((1, 3, 1))]] * 2, 1.0) == 0


def test_features_count_alike_in_every_layer_but_the_last():
    x, y = judged(0), judged(7)
    expected = sum(np.mean(np.abs(x[i][j] - y[i][j])) for i in range(2) for j in range(2))
    np.testing.assert_allclose(feature_loss(x, y), expected, rtol=1e-6)
    x[1][2] += 5
    np.testing.assert_allclose(feature_loss(x, y), expected, rtol=1e-6)


def test_features_of_the_recorded_wave_are_constants():
    theirs = jax.grad(lambda y: feature_loss(judged(0), y))(judged(7))
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(theirs))
    ours = jax.grad(lambda x: feature_loss(x, judged(7)))(judged(0))
    assert [np.any(leaf) for leaf in jax.tree.leaves(ours)] == [True, True, False] * 2


def test_features_in_bfloat16_are_compared_in_float32():
    half = [[jnp.full((1, 100_000, 1), 1.0, jnp.bfloat16)] * 2]
    other = [[jnp.full((1, 100_000, 1), 1.5, jnp.bfloat16)] * 2]
    assert feature_loss(half, other) == 0.5 and feature_loss(half, other).dtype == jnp.float32
    assert judged_loss(other, 1.0) == 0.25


def test_masked_frames_do_not_count():
    x, y = noise(2, 4, 3), noise(2, 4, 3, seed=1)
    mask = np.float32([[1, 1, 1, 0], [1, 0, 0, 0]])
    chosen = np.concatenate([(x - y)[0, :3], (x - y)[1, :1]])
    np.testing.assert_allclose(masked_mse(x, y, mask), np.mean(chosen**2), rtol=1e-5)
    assert masked_mse(x, y, 0 * mask) == 0
