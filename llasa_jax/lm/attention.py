"""Causal self-attention within packed segments, in implementations chosen by configuration."""

import jax
import jax.numpy as jnp
from einops import rearrange

from llasa_jax.errors import UserError

MASKED = -1e30  # not -inf: a row without any key stays finite


def attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    segments: jax.Array | None = None,
    *,
    implementation: str = "reference",
) -> jax.Array:
    """softmax(q k^T / sqrt(H)) v over earlier keys of the same segment.

    Args:
        q: [B, S, N, H].
        k, v: [B, S, K, H]; N / K query heads share one key-value head.
        segments: int [B, S]; None: each row is one segment.
        implementation: "reference" runs anywhere.

    Returns:
        [B, S, N, H] in the dtype of q; the softmax is float32.

    Raises:
        UserError: if the implementation is not available.
    """
    if implementation == "reference":
        return reference_attention(q, k, v, segments)
    raise UserError(f"lm.attention: {implementation!r} is not available yet, use 'reference'")


def reference_attention(
    q: jax.Array, k: jax.Array, v: jax.Array, segments: jax.Array | None = None
) -> jax.Array:
    """The formula as it stands; the other implementations are tested against it."""
    length, heads = q.shape[1], k.shape[2]
    q = rearrange(q * q.shape[-1] ** -0.5, "B S (K G) H -> B K G S H", K=heads)
    scores = jnp.einsum("BKGSH,BTKH->BKGST", q, k, preferred_element_type=jnp.float32)
    mask = jnp.tril(jnp.ones((length, length), bool))[None]
    if segments is not None:
        mask = mask & (segments[:, :, None] == segments[:, None, :])
    scores = jnp.where(mask[:, None, None], scores, MASKED)
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    out = jnp.einsum("BKGST,BTKH->BSKGH", weights, v)
    return rearrange(out, "B S K G H -> B S (K G) H")
