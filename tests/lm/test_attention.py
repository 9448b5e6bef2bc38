import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llasa_jax.config import AttentionBlocks
from llasa_jax.errors import UserError
from llasa_jax.lm.attention import UNSEEN, attention, reference_attention, splash_kernel


def tensors(length, batch=2, heads=4, kv_heads=2, size=8):
    keys = jax.random.split(jax.random.key(length), 3)
    q = jax.random.normal(keys[0], (batch, length, heads, size))
    k, v = (jax.random.normal(key, (batch, length, kv_heads, size)) for key in keys[1:])
    return q, k, v


def by_hand(q, k, v, segments):
    """The definition, one query after the other, in float64."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    group = q.shape[2] // k.shape[2]
    out = np.zeros_like(q)
    for b, s, n in np.ndindex(*q.shape[:3]):
        allowed = [t for t in range(s + 1) if segments[b, t] == segments[b, s]]
        scores = k[b, allowed, n // group] @ q[b, s, n] / np.sqrt(q.shape[3])
        weights = np.exp(scores - scores.max())
        out[b, s, n] = weights / weights.sum() @ v[b, allowed, n // group]
    return out


@pytest.mark.parametrize("length", [1, 7, 130])
def test_reference_is_the_definition(length):
    q, k, v = tensors(length)
    segments = np.sort(np.random.default_rng(0).integers(0, 3, (2, length)), axis=1)
    found = jax.jit(attention)(q, k, v, jnp.asarray(segments))
    np.testing.assert_allclose(found, by_hand(q, k, v, segments), atol=1e-5)
    alone = jax.jit(attention)(q, k, v)
    np.testing.assert_allclose(alone, by_hand(q, k, v, np.zeros((2, length))), atol=1e-5)


def test_blocks_change_neither_values_nor_gradients():
    inputs = tensors(45)
    segments = jnp.repeat(jnp.arange(3)[None], 15, axis=1).repeat(2, axis=0)

    def value(inputs, block):
        return jnp.sum(reference_attention(*inputs, segments, block=block) ** 2)

    slopes = jax.jit(jax.value_and_grad(value), static_argnums=1)
    whole, blocks = slopes(inputs, 45), slopes(inputs, 16)
    equal = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)
    jax.tree.map(equal, whole, blocks)


def test_unseen_keys_are_as_if_they_were_not_there():
    q, k, v = tensors(9)
    kept = np.array([0, 1, 2, 4, 5, 7])
    segments = jnp.zeros((2, 9), jnp.int32)
    hidden = jnp.ones((2, 9), jnp.int32).at[:, kept].set(0) * UNSEEN
    found = jax.jit(attention)(q, k, v, segments, hidden)
    short = jax.jit(attention)(*(x[:, kept] for x in (q, k, v)))
    np.testing.assert_allclose(found[:, kept], short, atol=1e-6)


def test_all_implementations_are_equal_on_meshes_too(eight_devices):
    """Splash attention interpreted, cuDNN's arguments given to XLA; rows split by length."""
    errors = eight_devices("attention")
    assert len(errors) == 6
    assert all(error < 1e-5 for error in errors.values()), errors


def test_rows_that_splash_cannot_divide():
    with pytest.raises(UserError, match="a multiple of 128, got 100"):
        attention(*tensors(100), implementation="splash")
    with pytest.raises(UserError, match="a multiple of 512, got 1280"):
        splash_kernel(2, 1280, AttentionBlocks(), parts=4)
