import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from llasa_jax.lm.loss import chunked_cross_entropy, cross_entropy
from llasa_jax.lm.model import head_logits

B, S, D, V, PADDED = 3, 13, 8, 50, 64


def problem():
    keys = jax.random.split(jax.random.key(0), 4)
    hidden = jax.random.normal(keys[0], (B, S, D))
    table = jax.random.normal(keys[1], (PADDED, D))
    targets = jax.random.randint(keys[2], (B, S), 0, V)
    weights = jax.random.bernoulli(keys[3], 0.6, (B, S)).astype(jnp.float32)
    return hidden, table, targets, weights


def test_reference_is_the_usual_cross_entropy():
    hidden, table, targets, weights = problem()
    loss = cross_entropy(head_logits(hidden, table, V), targets, weights)
    logits = jnp.einsum("BSD,VD->BSV", hidden, table[:V])
    nats = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
    np.testing.assert_allclose(loss.total, jnp.sum(nats * weights), rtol=1e-6)
    assert float(loss.weight) == float(weights.sum())
    np.testing.assert_allclose(loss.mean, loss.total / loss.weight)


@pytest.mark.parametrize("chunk, z_loss", [(1, 0.0), (4, 0.01), (13, 0.0), (20, 0.0)])
def test_chunked_equals_reference_in_value_and_gradients(chunk, z_loss):
    hidden, table, targets, weights = problem()

    def plain(hidden, table):
        logits = head_logits(hidden, table, V)
        return cross_entropy(logits, targets, weights, z_loss=z_loss).total

    def chunked(hidden, table):
        how = dict(vocab=V, chunk=chunk, z_loss=z_loss)
        return chunked_cross_entropy(hidden, table, targets, weights, **how).total

    expected = jax.value_and_grad(plain, (0, 1))(hidden, table)
    found = jax.jit(jax.value_and_grad(chunked, (0, 1)))(hidden, table)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), expected, found
    )
    assert not found[1][1][V:].any()


def test_the_z_loss_is_the_squared_log_of_the_denominator():
    hidden, table, targets, weights = problem()
    logits = head_logits(hidden, table, V)
    plain, found = (cross_entropy(logits, targets, weights, z_loss=z) for z in (0.0, 0.1))
    log_z = jnp.log(jnp.sum(jnp.exp(logits[..., :V]), -1))
    np.testing.assert_allclose(found.nats, plain.total, rtol=1e-6)
    penalty = 0.1 * jnp.sum(log_z**2 * weights)
    np.testing.assert_allclose(found.total - plain.total, penalty, rtol=1e-5)


def test_the_head_gradient_adds_up_in_bfloat16_if_told():
    hidden, table, targets, weights = problem()

    def gradient(accumulate):
        how = dict(vocab=V, chunk=1, accumulate=accumulate)
        value = lambda t: chunked_cross_entropy(hidden, t, targets, weights, **how).total  # noqa: E731
        return jax.jit(jax.grad(value))(table)

    exact, rounded = gradient("float32"), gradient("bfloat16")
    assert rounded.dtype == jnp.float32
    error = float(jnp.abs(exact - rounded).max() / jnp.abs(exact).max())
    assert 1e-4 < error < 2e-2


def test_the_same_on_every_mesh(eight_devices):
    """Devices along each axis, and neighbours that share the vocabulary: all of it together."""
    errors = eight_devices("loss")
    assert len(errors) == 7
    assert all(error < 1e-5 for error in errors.values()), errors


def test_an_empty_batch_has_no_loss():
    hidden, table, targets, weights = problem()
    loss = chunked_cross_entropy(hidden, table, targets, weights * 0, vocab=V, chunk=4)
    assert [float(x) for x in (*loss, loss.mean)] == [0, 0, 0, 0]
