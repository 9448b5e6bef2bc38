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


@pytest.mark.parametrize("chunk", [1, 4, 13, 20])
def test_chunked_equals_reference_in_value_and_gradients(chunk):
    hidden, table, targets, weights = problem()

    def plain(hidden, table):
        return cross_entropy(head_logits(hidden, table, V), targets, weights).total

    def chunked(hidden, table):
        loss = chunked_cross_entropy(hidden, table, targets, weights, vocab=V, chunk=chunk)
        return loss.total

    expected = jax.value_and_grad(plain, (0, 1))(hidden, table)
    found = jax.jit(jax.value_and_grad(chunked, (0, 1)))(hidden, table)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), expected, found
    )
    assert not found[1][1][V:].any()


def test_an_empty_batch_has_no_loss():
    hidden, table, targets, weights = problem()
    loss = chunked_cross_entropy(hidden, table, targets, weights * 0, vocab=V, chunk=4)
    assert (float(loss.total), float(loss.weight), float(loss.mean)) == (0, 0, 0)
