"""What encoder and decoder are both made of: X-Codec2's ResNet and transformer blocks.

`window` is None in a block that sees the whole item. Otherwise the block is causal: convolutions
and norms see no later frame, attention sees a frame and the `window` before it.

Given a `span` and a `past`, a block takes x for a window of a stream: norms and attention see what
was new in earlier windows by the past, and the result is (x, new past).
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from llasa_jax import nn
from llasa_jax.config import TransformerConfig
from llasa_jax.parallel.mesh import constrain


class ResnetBlock(nnx.Module):
    """x + conv(silu(norm(conv(silu(norm(x)))))), group norms over time, width 3; x [B, T, D]."""

    REACH = 2  # frames that an output sees on each side; twice as many before it, if causal

    def __init__(self, dim: int, groups: int, window: int | None, *, rngs: nnx.Rngs):
        norm = partial(nn.GroupNorm, dim, groups, eps=1e-6, each_frame=window is not None)
        padding = "same" if window is None else "causal"
        self.norm1 = norm(rngs=rngs)
        self.conv1 = nn.Conv1d(dim, dim, 3, ("embed", "mlp"), padding=padding, rngs=rngs)
        self.norm2 = norm(rngs=rngs)
        self.conv2 = nn.Conv1d(dim, dim, 3, ("mlp", "embed"), padding=padding, rngs=rngs)

    def __call__(
        self, x: jax.Array, mask: jax.Array, span: nn.Span | None = None, past: dict | None = None
    ) -> Any:
        weight, past = mask[..., None].astype(x.dtype), past or {}
        h, norm1 = self.norm1.stream(x, mask, span, past.get("norm1"))
        h = self.conv1(jax.nn.silu(h) * weight)
        h, norm2 = self.norm2.stream(h, mask, span, past.get("norm2"))
        x = constrain(x + self.conv2(jax.nn.silu(h) * weight), "batch", None, None)
        return (x, {"norm1": norm1, "norm2": norm2}) if past else x


class TransformerBlock(nnx.Module):
    """Pre-norm attention over the frames and a SiLU feed-forward, no biases; x [B, T, D].

    There is no positional encoding: X-Codec2's rotary embedding turns with the head, not with
    time, and so changes no score. Position comes from the convolutions around. The scores
    [B, N, T, T] are held in float32: an hour at once does not fit, and is decoded in chunks.
    """

    def __init__(self, config: TransformerConfig, window: int | None, *, rngs: nnx.Rngs):
        dim, axes = config.dim, ("embed", "heads")
        self.heads, self.window = config.heads, window
        self.att_norm = nn.RMSNorm(dim, eps=1e-6, rngs=rngs)
        self.c_attn = nn.Linear(dim, 3 * dim, axes, bias=False, rngs=rngs)
        self.c_proj = nn.Linear(dim, dim, axes[::-1], bias=False, rngs=rngs)
        self.ffn_norm = nn.RMSNorm(dim, eps=1e-6, rngs=rngs)
        self.fc1 = nn.Linear(dim, config.ffn, ("embed", "mlp"), bias=False, rngs=rngs)
        self.fc2 = nn.Linear(config.ffn, dim, ("mlp", "embed"), bias=False, rngs=rngs)

    def __call__(
        self, x: jax.Array, mask: jax.Array, span: nn.Span | None = None, past: dict | None = None
    ) -> Any:
        batch, time, dim = x.shape
        qkv = self.c_attn(self.att_norm(x)).reshape(batch, time, 3, self.heads, -1)
        q, k, v = qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]
        seen, first = mask, 0
        if past is not None:
            held, first = past["seen"].shape[1], span.left - past["seen"].shape[1]
            join = lambda old, new: jnp.concatenate([old, new[:, span.left :]], 1)  # noqa: E731
            now = jax.tree.map(join, past, {"k": k, "v": v, "seen": mask})
            past = jax.tree.map(lambda x: x[:, span.chunk : span.chunk + held], now)
            k, v, seen = now["k"], now["v"], now["seen"]
        # Heads before time: XLA's matrix products are several times faster so on CPUs.
        q, k, v = (x.swapaxes(1, 2) for x in (q * q.shape[-1] ** -0.5, k, v))
        scores = (q @ k.mT).astype(jnp.float32)
        seen = seen[:, None, :] > 0
        if self.window is not None:
            back = jnp.arange(time)[:, None] - jnp.arange(first, time)
            seen &= (back >= 0) & (back <= self.window)
        weights = jax.nn.softmax(jnp.where(seen[:, None], scores, -1e30)).astype(x.dtype)
        heads = (weights @ v).swapaxes(1, 2).reshape(batch, time, dim)
        x = constrain(x + self.c_proj(heads), "batch", None, None)
        x = constrain(x + self.fc2(jax.nn.silu(self.fc1(self.ffn_norm(x)))), "batch", None, None)
        return x if past is None else (x, past)


class Backbone(nnx.Module):
    """Two ResNet blocks, the transformer, two ResNet blocks, LayerNorm: x [B, T, D] -> [B, T, D].

    `mask` [B, T] is 1 on real frames; padding changes nothing in them.
    """

    def __init__(
        self,
        config: TransformerConfig,
        groups: int,
        scan: bool,
        window: int | None = None,
        *,
        rngs: nnx.Rngs,
    ):
        self.config, self.groups = config, groups
        resnet = partial(ResnetBlock, config.dim, groups, window)
        # Two blocks are not worth a loop, and XLA runs convolutions inside one very slowly on CPUs.
        self.prior = nn.Stack(resnet, 2, scan=False, rngs=rngs)
        transformer = partial(TransformerBlock, config, window)
        self.transformers = nn.Stack(transformer, config.layers, scan=scan, rngs=rngs)
        self.post = nn.Stack(resnet, 2, scan=False, rngs=rngs)
        self.norm = nn.LayerNorm(config.dim, eps=1e-6, rngs=rngs)

    def __call__(
        self, x: jax.Array, mask: jax.Array, span: nn.Span | None = None, past: dict | None = None
    ) -> Any:
        memory = {}
        for name in ("prior", "transformers", "post"):
            if past is None:
                x, _ = getattr(self, name)(x, mask)
            else:
                x, memory[name] = getattr(self, name)(x, mask, span, each=past[name])
        x = self.norm(x)
        return x if past is None else (x, memory)

    def memory(self, batch: int, frames: int, dtype: Any) -> dict:
        """The `past` that a stream begins with: no statistics, `frames` frames not yet seen."""
        layers, heads, dim = self.config.layers, self.config.heads, self.config.dim
        none = jnp.zeros((2, batch, 1, self.groups, 1))
        moments = nn.Moments(none, none, none)
        resnets = {"norm1": moments, "norm2": moments}
        keys = jnp.zeros((layers, batch, frames, heads, dim // heads), dtype)
        seen = jnp.zeros((layers, batch, frames))
        return {
            "prior": resnets,
            "transformers": {"k": keys, "v": keys, "seen": seen},
            "post": resnets,
        }
