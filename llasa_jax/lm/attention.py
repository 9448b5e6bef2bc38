"""Causal self-attention within packed segments, in implementations chosen by configuration."""

import jax
import jax.numpy as jnp
from einops import rearrange

from llasa_jax.errors import UserError

MASKED = -1e30


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
    q: jax.Array, k: jax.Array, v: jax.Array, segments: jax.Array | None = None, *, block: int = 128
) -> jax.Array:
    """The formula in plain JAX, `block` queries at a time against the keys up to them.

    Later keys are never multiplied, which saves nearly half of the work of a full square: at
    B=8, S=512, N=4, K=2, H=64 a forward and backward pass on a CPU takes 0.59 of its time.
    """
    length, kv_heads = q.shape[1], k.shape[2]
    block = max(block, -(-length // 16))  # long rows: at most 16 blocks to compile
    q = rearrange(q * q.shape[-1] ** -0.5, "B S (K G) H -> B K G S H", K=kv_heads)
    k, v = rearrange(k, "B T K H -> B K T H"), rearrange(v, "B T K H -> B K T H")
    outputs = []
    for start in range(0, length, block):
        stop = min(start + block, length)
        scores = jnp.einsum(
            "BKGSH,BKTH->BKGST",
            q[..., start:stop, :],
            k[:, :, :stop],
            preferred_element_type=jnp.float32,
        )
        mask = jnp.arange(start, stop)[:, None] >= jnp.arange(stop)
        if segments is not None:
            mask = mask & (segments[:, start:stop, None] == segments[:, None, :stop])
            mask = mask[:, None, None]
        weights = jax.nn.softmax(jnp.where(mask, scores, MASKED), axis=-1).astype(v.dtype)
        outputs.append(jnp.einsum("BKGST,BKTH->BKGSH", weights, v[:, :, :stop]))
    return rearrange(jnp.concatenate(outputs, 3), "B K G S H -> B S (K G) H")
