"""Attention of the released speech models, heads before time."""

import jax
import jax.numpy as jnp


def by_heads(x: jax.Array, heads: int) -> jax.Array:
    """x [B, T, N * H] -> [B, N, T, H]; matrix products are several times faster so on CPUs."""
    return x.reshape(*x.shape[:2], heads, -1).swapaxes(1, 2)


def attend(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    mask: jax.Array | None = None,
    bias: jax.Array | None = None,
) -> jax.Array:
    """softmax(q k^T / sqrt(H) + bias) v, heads side by side again: [B, T, N * H].

    Args:
        q: [B, N, T, H].
        k, v: [B, N, S, H].
        mask: what is seen, 1 or true; of a shape that broadcasts to [B, N, T, S].
        bias: added to the scores, likewise.
    """
    scores = ((q * q.shape[-1] ** -0.5) @ k.mT).astype(jnp.float32)
    if bias is not None:
        scores = scores + bias
    if mask is not None:
        scores = jnp.where(mask > 0, scores, -1e30)
    weights = jnp.exp(scores - scores.max(-1, keepdims=True))
    # The softmax's divisor: on H values a query instead of S.
    heads = (weights.astype(v.dtype) @ v) / weights.sum(-1, keepdims=True).astype(v.dtype)
    return heads.swapaxes(1, 2).reshape(q.shape[0], q.shape[2], -1)
