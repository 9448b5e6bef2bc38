import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal
from flax import nnx

from llasa_jax import nn
from llasa_jax.codec.activations import TAPS, SnakeBeta, squared_sine

CHANNELS = 3


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


PARAMS = {"alpha": 0.5 * normal(CHANNELS, seed=1), "beta": 0.5 * normal(CHANNELS, seed=2)}


@jax.jit
def snake(params, x, lengths):
    graphdef, _ = nn.abstract(lambda rngs: SnakeBeta(CHANNELS, rngs=rngs))
    return nn.merge(graphdef, params)(x, lengths)


@jax.jit
def reference(params, x):
    """One item [n, C] as PyTorch computes it: stuffed with zeros, convolved, bent, convolved."""

    def row(x, alpha, beta):
        held = jnp.pad(x, 5, mode="edge")
        stuffed = jnp.zeros(2 * held.size - 1).at[::2].set(held)
        up = 2 * jnp.convolve(stuffed, TAPS, precision="highest")[15:-15]
        bent = up + jnp.sin(jnp.exp(alpha) * up) ** 2 / (jnp.exp(beta) + 1e-9)
        held = jnp.pad(bent, (5, 6), mode="edge")
        return jnp.convolve(held, TAPS, "valid", precision="highest")[::2]

    return jax.vmap(row, (1, 0, 0), 1)(x, params["alpha"], params["beta"])


def test_the_filter_is_a_kaiser_windowed_sinc():
    window = ("kaiser", scipy.signal.kaiser_beta(scipy.signal.kaiser_atten(6, 4 * 0.3)))
    np.testing.assert_allclose(TAPS, scipy.signal.firwin(12, 0.5, window=window), atol=1e-12)


def test_squared_sine_is_that():
    turns = np.linspace(-40, 40, 400001, dtype=np.float32)
    exact = np.sin(np.pi * turns.astype(np.float64)) ** 2
    assert np.abs(jax.jit(squared_sine)(turns) - exact).max() < 5e-7
    slope = jax.jit(jax.vmap(jax.grad(squared_sine)))(turns[::10])
    exact = np.pi * np.sin(2 * np.pi * turns[::10].astype(np.float64))
    assert np.abs(slope - exact).max() < 2e-5


@pytest.mark.parametrize("size", [1, 2, 5, 13, 24, 25, 26, 61])
def test_values_and_gradients_are_the_references(size):
    x, weight = 2 * normal(2, size, CHANNELS), normal(2, size, CHANNELS, seed=3)

    def ours(params, x):
        y = snake(params, x, jnp.full(2, size))
        return jnp.sum(weight * y), y

    def theirs(params, x):
        y = jnp.stack([reference(params, item) for item in x])
        return jnp.sum(weight * y), y

    found, expected = (
        jax.jit(jax.value_and_grad(f, (0, 1), has_aux=True))(PARAMS, x) for f in (ours, theirs)
    )
    np.testing.assert_allclose(found[0][1], expected[0][1], atol=5e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-4), found[1], expected[1])


def test_a_padded_item_comes_out_as_it_does_alone_and_its_padding_as_zero():
    lengths = np.array([70, 69, 59, 27, 13, 12, 11, 6, 5, 1, 0])
    x = 2 * normal(len(lengths), 70, CHANNELS)
    for size in (70, 24):  # with and without a part far from the ends
        found = np.asarray(snake(PARAMS, x[:, :size], np.minimum(lengths, size)))
        for item, row, length in zip(x, found, np.minimum(lengths, size), strict=True):
            assert not row[length:].any()
            if length:
                np.testing.assert_allclose(
                    row[:length], reference(PARAMS, item[:length]), atol=5e-6
                )


def test_bfloat16_stays_bfloat16_and_near():
    x = normal(1, 61, CHANNELS)
    found = snake(PARAMS, jnp.asarray(x, jnp.bfloat16), np.array([61]))
    assert found.dtype == jnp.bfloat16
    exact = reference(PARAMS, x[0])
    assert np.abs(np.asarray(found[0], np.float32) - exact).max() < 0.05


def test_parameters_begin_as_a_plain_snake():
    _, params = nn.split(SnakeBeta(4, rngs=nnx.Rngs(0)))
    assert not any(leaf.any() for leaf in jax.tree.leaves(params))
