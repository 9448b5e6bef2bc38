"""Next-token cross-entropy: a plain reference, and one that never holds all logits.

Both return a sum and a weight, not a mean, so that microbatches and devices with different numbers
of speech tokens add up to the same loss as one large batch.
"""

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

    The logits of a chunk are computed again on the way back. The table is cast to the dtype of
    `hidden` inside the chunk, so that its gradient adds up in the table's own float32.

    Args:
        hidden: [B, S, D].
        table: head rows [V padded, D].
        targets, weights: [B, S].
        vocab: number of ids; the rows after them are padding.
        chunk: positions a row at once.
    """

    @jax.checkpoint
    def step(loss: Loss, piece: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[Loss, None]:
        states, targets, weights = piece
        part = cross_entropy(head_logits(states, table, vocab), targets, weights)
        return Loss(*(a + b for a, b in zip(loss, part, strict=True))), None

    length = hidden.shape[1]
    padding = -length % chunk

    def pieces(x: jax.Array) -> jax.Array:
        x = jnp.pad(x, ((0, 0), (0, padding)) + ((0, 0),) * (x.ndim - 2))
        x = x.reshape(x.shape[0], -1, chunk, *x.shape[2:])
        return jnp.moveaxis(x, 1, 0)

    zero = Loss(jnp.zeros((), jnp.float32), jnp.zeros((), jnp.float32))
    return jax.lax.scan(step, zero, (pieces(hidden), pieces(targets), pieces(weights)))[0]
