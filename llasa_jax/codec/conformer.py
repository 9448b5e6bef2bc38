"""The first layers of Wav2Vec2-BERT: a conformer with a causal convolution module.

Chung et al. 2021 (w2v-BERT), Barrault et al. 2023 (w2v-BERT 2.0); transformers'
Wav2Vec2BertModel with relative_key positions, without its masking embedding. Parameters carry its
names: `feature_projection` {layer_norm, projection}, and of each layer (stacked, in
`layers.layers`) {ffn1, ffn2} {intermediate_dense, output_dense}, self_attn {linear_q, linear_k,
linear_v, linear_out, distance_embedding}, conv_module {layer_norm, pointwise_conv1,
depthwise_conv, depthwise_layer_norm, pointwise_conv2} and the layer norms before them
(ffn1_layer_norm, self_attn_layer_norm, ffn2_layer_norm) and after (final_layer_norm). Kernels are
[in, out]; the depthwise one is [width, channels].
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from llasa_jax import nn
from llasa_jax.config import SemanticConfig
from llasa_jax.parallel.mesh import constrain

EPS = 1e-5


class FeatureProjection(nnx.Module):
    """Linear(norm(x)): stacked filter banks [B, T, 2 * bins] -> [B, T, D]."""

    def __init__(self, config: SemanticConfig, *, rngs: nnx.Rngs):
        size = 2 * config.mel_bins
        self.layer_norm = nn.LayerNorm(size, eps=EPS, rngs=rngs)
        self.projection = nn.Linear(size, config.dim, (None, "embed"), rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.projection(self.layer_norm(x))


class FeedForward(nnx.Module):
    """linear(swish(linear(x))), x [B, T, D]."""

    def __init__(self, config: SemanticConfig, *, rngs: nnx.Rngs):
        dim, ffn = config.dim, config.ffn
        self.intermediate_dense = nn.Linear(dim, ffn, ("embed", "mlp"), rngs=rngs)
        self.output_dense = nn.Linear(ffn, dim, ("mlp", "embed"), rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.output_dense(jax.nn.silu(self.intermediate_dense(x)))


class SelfAttention(nnx.Module):
    """Attention whose keys carry an embedding of their distance, x [B, T, D].

    score[t, s] = q[t] . (k[s] + E[clip(s - t, -left, right)]) / sqrt(H) (Shaw et al. 2018).
    """

    def __init__(self, config: SemanticConfig, *, rngs: nnx.Rngs):
        dim, self.heads = config.dim, config.heads
        self.left, self.right = config.left, config.right
        linear = partial(nn.Linear, dim, dim, rngs=rngs)
        self.linear_q = linear(("embed", "heads"))
        self.linear_k = linear(("embed", "heads"))
        self.linear_v = linear(("embed", "heads"))
        self.linear_out = linear(("heads", "embed"))
        shape = (config.left + 1 + config.right, dim // config.heads)
        self.distance_embedding = nn.param(rngs, shape, (None, None), nn.normal(0.02))

    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        batch, time, dim = x.shape
        linears = self.linear_q, self.linear_k, self.linear_v
        # Heads before time: XLA's matrix products are several times faster so on CPUs.
        q, k, v = (
            linear(x).reshape(batch, time, self.heads, -1).swapaxes(1, 2) for linear in linears
        )
        q = q * q.shape[-1] ** -0.5
        scores = q @ k.mT + relative_scores(q, self.distance_embedding[...], self.left)
        scores = jnp.where(mask[:, None, None, :] > 0, scores.astype(jnp.float32), -1e30)
        weights = jnp.exp(scores - scores.max(-1, keepdims=True))
        # The softmax's divisor: on H values a query instead of S.
        heads = (weights.astype(x.dtype) @ v) / weights.sum(-1, keepdims=True).astype(x.dtype)
        return self.linear_out(heads.swapaxes(1, 2).reshape(batch, time, dim))


def relative_scores(q: jax.Array, distances: jax.Array, left: int) -> jax.Array:
    """q [..., T, H], embeddings [R, H] of distances -left.. -> [..., T, S]: q[t] . E[clip(s - t)].

    Each query is multiplied with all distances from -left on; a reshape to rows one shorter then
    skews them to their keys (Huang et al. 2018), without a gather.
    """
    *batch, time, _ = q.shape
    table = distances[np.minimum(np.arange(left + time + 1), len(distances) - 1)].astype(q.dtype)
    rows = q @ table.T
    skewed = rows.reshape(*batch, -1)[..., : time * (left + time)]
    skewed = skewed.reshape(*batch, time, left + time)[..., left:]
    earlier = np.arange(time) < np.arange(time)[:, None] - left
    return jnp.where(earlier, rows[..., :1], skewed)


class ConvModule(nnx.Module):
    """Gated pointwise, causal depthwise and pointwise convolutions over time, x [B, T, D]."""

    def __init__(self, config: SemanticConfig, *, rngs: nnx.Rngs):
        dim, width = config.dim, config.conv_width
        pointwise = partial(nn.Linear, bias=False, rngs=rngs)
        self.layer_norm = nn.LayerNorm(dim, eps=EPS, rngs=rngs)
        self.pointwise_conv1 = pointwise(dim, 2 * dim, ("embed", "mlp"))
        self.depthwise_conv = nn.param(rngs, (width, dim), (None, "mlp"), nn.lecun(width))
        self.depthwise_layer_norm = nn.LayerNorm(dim, eps=EPS, rngs=rngs)
        self.pointwise_conv2 = pointwise(dim, dim, ("mlp", "embed"))

    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        time = x.shape[1]
        x = self.layer_norm(x) * mask[..., None].astype(x.dtype)
        value, gate = jnp.split(self.pointwise_conv1(x), 2, -1)
        # Shifted products: inside a loop, XLA runs convolutions very slowly on CPUs.
        kernel = self.depthwise_conv[...].astype(x.dtype)
        past = jnp.pad(value * jax.nn.sigmoid(gate), ((0, 0), (len(kernel) - 1, 0), (0, 0)))
        x = sum(past[:, i : i + time] * weight for i, weight in enumerate(kernel))
        return self.pointwise_conv2(jax.nn.silu(self.depthwise_layer_norm(x)))


class ConformerLayer(nnx.Module):
    """Half a feed-forward, attention, convolutions, half a feed-forward, norm: x [B, T, D]."""

    def __init__(self, config: SemanticConfig, *, rngs: nnx.Rngs):
        norm = partial(nn.LayerNorm, config.dim, eps=EPS, rngs=rngs)
        self.ffn1_layer_norm, self.ffn1 = norm(), FeedForward(config, rngs=rngs)
        self.self_attn_layer_norm, self.self_attn = norm(), SelfAttention(config, rngs=rngs)
        self.conv_module = ConvModule(config, rngs=rngs)
        self.ffn2_layer_norm, self.ffn2 = norm(), FeedForward(config, rngs=rngs)
        self.final_layer_norm = norm()

    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        x = x + 0.5 * self.ffn1(self.ffn1_layer_norm(x))
        x = x + self.self_attn(self.self_attn_layer_norm(x), mask)
        x = x + self.conv_module(x, mask)
        x = x + 0.5 * self.ffn2(self.ffn2_layer_norm(x))
        return constrain(self.final_layer_norm(x), "batch", None, None)


class Wav2Vec2Bert(nnx.Module):
    """Stacked filter banks [B, T, 2 * bins] -> the last layer's output [B, T, D], not normed again.

    `mask` [B, T] is 1 on real frames; padding changes nothing in them.
    """

    def __init__(self, config: SemanticConfig, scan: bool, *, rngs: nnx.Rngs):
        self.feature_projection = FeatureProjection(config, rngs=rngs)
        layer = partial(ConformerLayer, config)
        self.layers = nn.Stack(layer, config.layers, scan=scan, rngs=rngs)

    def __call__(self, features: jax.Array, mask: jax.Array) -> jax.Array:
        return self.layers(self.feature_projection(features), mask)[0]
