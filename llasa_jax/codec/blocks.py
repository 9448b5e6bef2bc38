"""What encoder and decoder are both made of: X-Codec2's ResNet and transformer blocks."""

from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from llasa_jax import nn
from llasa_jax.config import TransformerConfig


class ResnetBlock(nnx.Module):
    """x + conv(silu(norm(conv(silu(norm(x)))))), group norms over time, width 3; x [B, T, D]."""

    def __init__(self, dim: int, groups: int, *, rngs: nnx.Rngs):
        self.norm1 = nn.GroupNorm(dim, groups, eps=1e-6, rngs=rngs)
        self.conv1 = nn.Conv1d(dim, dim, 3, ("embed", "mlp"), rngs=rngs)
        self.norm2 = nn.GroupNorm(dim, groups, eps=1e-6, rngs=rngs)
        self.conv2 = nn.Conv1d(dim, dim, 3, ("mlp", "embed"), rngs=rngs)

    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        h = self.conv1(jax.nn.silu(self.norm1(x, mask)) * mask[..., None])
        return x + self.conv2(jax.nn.silu(self.norm2(h, mask)) * mask[..., None])


class TransformerBlock(nnx.Module):
    """Pre-norm attention over all frames and a SiLU feed-forward, no biases; x [B, T, D].

    There is no positional encoding: X-Codec2's rotary embedding turns with the head, not with
    time, and so changes no score. Position comes from the convolutions around.
    """

    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs):
        dim, axes = config.dim, ("embed", "heads")
        self.heads = config.heads
        self.att_norm = nn.RMSNorm(dim, eps=1e-6, rngs=rngs)
        self.c_attn = nn.Linear(dim, 3 * dim, axes, bias=False, rngs=rngs)
        self.c_proj = nn.Linear(dim, dim, axes[::-1], bias=False, rngs=rngs)
        self.ffn_norm = nn.RMSNorm(dim, eps=1e-6, rngs=rngs)
        self.fc1 = nn.Linear(dim, config.ffn, ("embed", "mlp"), bias=False, rngs=rngs)
        self.fc2 = nn.Linear(config.ffn, dim, ("mlp", "embed"), bias=False, rngs=rngs)

    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        batch, time, dim = x.shape
        qkv = self.c_attn(self.att_norm(x)).reshape(batch, time, 3, self.heads, -1)
        q, k, v = qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]
        scores = jnp.einsum("btnh,bsnh->bnts", q * q.shape[-1] ** -0.5, k).astype(jnp.float32)
        scores = jnp.where(mask[:, None, None, :] > 0, scores, -1e30)
        weights = jax.nn.softmax(scores).astype(x.dtype)
        heads = jnp.einsum("bnts,bsnh->btnh", weights, v).reshape(batch, time, dim)
        x = x + self.c_proj(heads)
        return x + self.fc2(jax.nn.silu(self.fc1(self.ffn_norm(x))))


class Backbone(nnx.Module):
    """Two ResNet blocks, the transformer, two ResNet blocks, LayerNorm: x [B, T, D] -> [B, T, D].

    `mask` [B, T] is 1 on real frames; padding changes nothing in them.
    """

    def __init__(self, config: TransformerConfig, groups: int, scan: bool, *, rngs: nnx.Rngs):
        resnet = partial(ResnetBlock, config.dim, groups)
        # Two blocks are not worth a loop, and XLA runs convolutions inside one very slowly on CPUs.
        self.prior = nn.Stack(resnet, 2, scan=False, rngs=rngs)
        transformer = partial(TransformerBlock, config)
        self.transformers = nn.Stack(transformer, config.layers, scan=scan, rngs=rngs)
        self.post = nn.Stack(resnet, 2, scan=False, rngs=rngs)
        self.norm = nn.LayerNorm(config.dim, eps=1e-6, rngs=rngs)

    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        for stack in (self.prior, self.transformers, self.post):
            x, _ = stack(x, mask)
        return self.norm(x)
