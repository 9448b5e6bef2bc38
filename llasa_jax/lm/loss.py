"""Next-token cross-entropy: a plain reference, and one that never holds all logits.

Both return a sum and a weight, not a mean, so that microbatches and devices with different numbers
of speech tokens add up to the same loss as one large batch.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from llasa_jax.lm.model import head_logits


class Loss(NamedTuple):
    """Weighted sum of -log p(target) in nats, and the sum of the weights: float32 scalars."""

    total: jax.Array
    weight: jax.Array

    @property
    def mean(self) -> jax.Array:
        """Nats a token; 0 for an empty batch."""
        return self.total / jnp.maximum(self.weight, 1.0)


def cross_entropy(logits: jax.Array, targets: jax.Array, weights: jax.Array) -> Loss:
    """Sum over positions of weights * (logsumexp(logits) - logits[target]).

    Args:
        logits: [..., V].
        targets: ids [...].
        weights: loss weight of each position [...].
    """
    logits = logits.astype(jnp.float32)
    chosen = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    weights = weights.astype(jnp.float32)
    nats = jax.nn.logsumexp(logits, axis=-1) - chosen
    return Loss(jnp.sum(nats * weights), jnp.sum(weights))


def chunked_cross_entropy(
    hidden: jax.Array,
    table: jax.Array,
    targets: jax.Array,
    weights: jax.Array,
    *,
    vocab: int,
    chunk: int,
) -> Loss:
    """`cross_entropy` of hidden x table, holding the logits of `chunk` positions a row at a time.

    Its gradient is made with its value, in one pass: softmax minus one-hot stands in the logits'
    place, so that they are neither kept nor computed twice. The table's gradient adds up in
    float32. Each row's positions without weight go last, and chunks of them alone are skipped.

    Args:
        hidden: [B, S, D].
        table: head rows [V padded, D].
        targets, weights: [B, S]; there is no gradient for the weights.
        vocab: number of ids; the rows after them are padding.
        chunk: positions a row at once.
    """
    order = jnp.argsort(weights == 0, axis=1, stable=True)
    hidden = jnp.take_along_axis(hidden, order[..., None], axis=1)
    targets, weights = (jnp.take_along_axis(x, order, axis=1) for x in (targets, weights))
    return Loss(*_chunked(hidden, table, targets, weights.astype(jnp.float32), vocab, chunk))


def _pieces(x: jax.Array, chunk: int) -> jax.Array:
    """[B, S, ...] -> [S / chunk, B, chunk, ...], padded with zeros."""
    x = jnp.pad(x, ((0, 0), (0, -x.shape[1] % chunk)) + ((0, 0),) * (x.ndim - 2))
    return jnp.moveaxis(x.reshape(x.shape[0], -1, chunk, *x.shape[2:]), 1, 0)


@partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _chunked(hidden, table, targets, weights, vocab, chunk):  # noqa: ANN001, ANN202
    def step(total: jax.Array, piece: tuple) -> tuple[jax.Array, None]:
        states, targets, weights = piece
        return total + cross_entropy(head_logits(states, table, vocab), targets, weights)[0], None

    pieces = tuple(_pieces(x, chunk) for x in (hidden, targets, weights))
    return jax.lax.scan(step, jnp.zeros(()), pieces)[0], jnp.sum(weights)


def _chunked_forward(hidden, table, targets, weights, vocab, chunk):  # noqa: ANN001, ANN202
    cast = table.astype(hidden.dtype)

    def step(carry: tuple, piece: tuple) -> tuple[tuple, jax.Array]:
        total, table_gradient = carry
        shape = piece[0].shape
        # One row axis: products that contract two are slow on CPUs.
        states, targets, weights = (x.reshape(-1, *x.shape[2:]) for x in piece)
        logits = head_logits(states, cast, vocab)
        chosen = jnp.take_along_axis(logits, targets[:, None], axis=-1)[:, 0]
        log_sum = jax.nn.logsumexp(logits, axis=-1)
        one_hot = jnp.arange(logits.shape[-1]) == targets[:, None]
        slope = (jnp.exp(logits - log_sum[:, None]) - one_hot) * weights[:, None]
        slope = slope.astype(hidden.dtype)
        dot = partial(jnp.einsum, preferred_element_type=jnp.float32)
        table_gradient = table_gradient + dot("nv,nd->vd", slope, states)
        states_gradient = dot("nv,vd->nd", slope, cast).astype(hidden.dtype).reshape(shape)
        return (total + jnp.sum((log_sum - chosen) * weights), table_gradient), states_gradient

    def skip(carry: tuple, piece: tuple) -> tuple[tuple, jax.Array]:
        return carry, jnp.zeros_like(piece[0])

    def step_or_skip(carry: tuple, piece: tuple) -> tuple[tuple, jax.Array]:
        return jax.lax.cond(jnp.any(piece[2] != 0), step, skip, carry, piece)

    start = jnp.zeros(()), jnp.zeros(table.shape, jnp.float32)
    pieces = tuple(_pieces(x, chunk) for x in (hidden, targets, weights))
    (total, table_gradient), gradients = jax.lax.scan(step_or_skip, start, pieces)
    gradients = jnp.moveaxis(gradients, 0, 1).reshape(hidden.shape[0], -1, hidden.shape[2])
    gradients = gradients[:, : hidden.shape[1]]
    return (total, jnp.sum(weights)), (gradients, table_gradient.astype(table.dtype))


def _chunked_backward(vocab, chunk, gradients, cotangents):  # noqa: ANN001, ANN202
    return *((g * cotangents[0]).astype(g.dtype) for g in gradients), None, None


_chunked.defvjp(_chunked_forward, _chunked_backward)
