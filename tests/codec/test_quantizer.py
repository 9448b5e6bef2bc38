import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from llasa_jax import nn
from llasa_jax.codec.quantizer import Quantizer, bound, quantize, to_codes, to_grid

RELEASED = (4,) * 8
LEVELS = st.lists(st.integers(3, 9), min_size=1, max_size=5).map(tuple)


def double_bound(x, levels):
    """The formula in float64, without rounding."""
    for _ in range(2):
        half = (np.float64(levels) - 1) * 1.001 / 2
        offset = np.where(np.array(levels) % 2 == 0, 0.5, 0.0)
        x = np.tanh(x + np.arctanh(offset / half)) * half - offset
    return x


def test_all_codes_of_x_codec2_survive():
    codes = np.arange(65536)
    grid = to_grid(jnp.asarray(codes), RELEASED)
    assert set(np.unique(grid)) == {-1.0, -0.5, 0.0, 0.5}
    np.testing.assert_array_equal(to_codes(grid, RELEASED), codes)


def test_dimension_0_is_the_least_significant_digit():
    grid = to_grid(jnp.array([0, 1, 4, 4**7, 65535]), RELEASED)
    low, one = -np.ones(8), np.eye(8) / 2
    np.testing.assert_array_equal(
        grid, [low, low + one[0], low + one[1], low + one[7], 0.5 + 0 * low]
    )


def test_four_levels_change_at_the_thresholds_of_the_double_bound():
    thresholds = np.array([-0.80943, -0.243405, 0.407885])
    x = np.concatenate([thresholds - 1e-5, thresholds + 1e-5, [-50, 50]])
    digits = to_codes(quantize(jnp.asarray(x[:, None], jnp.float32), (4,)), (4,))
    assert digits.tolist() == [0, 1, 2, 1, 2, 3, 0, 3]


@pytest.mark.parametrize("level", range(3, 10))
def test_every_level_is_reached_in_order(level):
    x = jnp.linspace(-8, 8, 4001)[:, None]
    digits = np.asarray(to_codes(quantize(x, (level,)), (level,)))
    assert np.all(np.diff(digits) >= 0)
    assert np.unique(digits).tolist() == list(range(level))


@settings(max_examples=15, deadline=None)
@given(LEVELS, st.integers(0, 99))
def test_codes_and_grid_are_each_others_inverse_for_any_levels(levels, seed):
    size = np.prod(levels)
    codes = np.random.default_rng(seed).integers(0, size, 40)
    grid = np.asarray(to_grid(codes, levels))
    assert np.abs(grid).max() <= 1
    np.testing.assert_array_equal(to_codes(grid, levels), codes)
    x = np.random.default_rng(seed).normal(size=(40, len(levels))).astype(np.float32)
    quantised = quantize(x, levels)
    exact = double_bound(x, levels)
    np.testing.assert_allclose(bound(bound(x, levels), levels), exact, atol=1e-5)
    clear = np.all(np.abs(exact % 1 - 0.5) > 1e-4, axis=1)  # not between two levels
    expected = np.round(exact) / (np.array(levels) // 2)
    np.testing.assert_allclose(quantised[clear], expected[clear], atol=1e-6)
    found = np.asarray(to_codes(quantised, levels))
    assert 0 <= found.min() and found.max() < size
    np.testing.assert_allclose(to_grid(found, levels), quantised, atol=1e-6)


@pytest.mark.parametrize("levels", [(4, 4, 4), (3, 5, 8)])
def test_the_gradient_is_that_of_the_double_bound(levels):
    x = np.random.default_rng(0).normal(size=(9, 3)).astype(np.float32)
    weights = np.random.default_rng(1).normal(size=(9, 3)).astype(np.float32)
    found = jax.jit(jax.grad(lambda x: jnp.sum(quantize(x, levels) * weights)))(x)
    exact, step = np.float64(x), 1e-6
    slope = (double_bound(exact + step, levels) - double_bound(exact - step, levels)) / (2 * step)
    np.testing.assert_allclose(found, slope * weights / (np.array(levels) // 2), atol=1e-4)


def test_the_module_gives_one_code_its_features_and_theirs_again():
    levels = (4, 3, 5)
    graphdef, params = nn.split(Quantizer(6, levels, rngs=nnx.Rngs(0)))
    x = np.random.default_rng(0).normal(size=(2, 7, 6)).astype(np.float32)

    @jax.jit
    def run(params, x):
        model = nn.merge(graphdef, params)
        latents = model.latents(x)
        codes = model.codes(latents)
        return latents, codes, model.features(latents), model.code_features(codes)

    latents, codes, features, again = run(params, x)
    assert latents.shape == (2, 7, 3) and latents.dtype == jnp.float32
    assert codes.shape == (2, 7) and codes.dtype == jnp.int32
    np.testing.assert_allclose(features, again, atol=1e-6)
    assert jax.eval_shape(run, params, x.astype(jnp.bfloat16))[0].dtype == jnp.float32
