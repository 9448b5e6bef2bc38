"""ECAPA-TDNN (Desplanques et al. 2020) over features: what seed-tts-eval compares voices with.

The small variant of UniSpeech's speaker verification: no global context in the pooling. Batch
norms use their stored statistics. Padding never reaches a valid frame.
"""

from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from llasa_jax import nn
from llasa_jax.config import WavlmConfig

DILATIONS = (2, 3, 4)
EPS = 1e-5


class BatchNorm(nnx.Module):
    """(x - mean) / sqrt(variance) * scale + bias over the last axis, with stored statistics."""

    def __init__(self, size: int, *, rngs: nnx.Rngs):
        self.scale = nn.param(rngs, (size,), (None,), nn.ones)
        self.bias = nn.param(rngs, (size,), (None,), nn.zeros)
        self.mean = nn.param(rngs, (size,), (None,), nn.zeros)
        self.variance = nn.param(rngs, (size,), (None,), nn.ones)

    def __call__(self, x: jax.Array) -> jax.Array:
        gain = self.scale[...] * jax.lax.rsqrt(self.variance[...] + EPS)
        return (x - self.mean[...]) * gain + self.bias[...]


class ConvNorm(nnx.Module):
    """bn(relu(conv(x))), x [B, T, in] -> [B, T, out]; `mask` [B, T, 1] where it is wide."""

    def __init__(
        self, size_in: int, size_out: int, width: int = 1, dilation: int = 1, *, rngs: nnx.Rngs
    ):
        axes = ("embed", "mlp")
        self.conv = nn.Conv1d(size_in, size_out, width, axes, dilation=dilation, rngs=rngs)
        self.bn = BatchNorm(size_out, rngs=rngs)

    def __call__(self, x: jax.Array, mask: jax.Array | float = 1.0) -> jax.Array:
        return self.bn(jax.nn.relu(self.conv(x * mask)))


class Block(nnx.Module):
    """x + squeeze-and-excitation of a Res2Net block, x [B, T, C].

    Of `scale` parts, each but the last is convolved together with the result before it.
    """

    def __init__(self, config: WavlmConfig, dilation: int, *, rngs: nnx.Rngs):
        size, self.scale = config.speaker_channels, config.scale
        part = size // config.scale
        self.first = ConvNorm(size, size, rngs=rngs)
        self.parts = nnx.List(
            [ConvNorm(part, part, 3, dilation, rngs=rngs) for _ in range(config.scale - 1)]
        )
        self.last = ConvNorm(size, size, rngs=rngs)
        self.linear1 = nn.Linear(size, config.bottleneck, ("embed", "mlp"), rngs=rngs)
        self.linear2 = nn.Linear(config.bottleneck, size, ("mlp", "embed"), rngs=rngs)

    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        *parts, rest = jnp.split(self.first(x), self.scale, -1)
        made: list[jax.Array] = []
        for convolve, part in zip(self.parts, parts, strict=True):
            made.append(convolve(part + made[-1] if made else part, mask))
        y = self.last(jnp.concatenate([*made, rest], -1))
        mean = (y * mask).sum(1) / jnp.maximum(mask.sum(1), 1.0)
        weight = jax.nn.sigmoid(self.linear2(jax.nn.relu(self.linear1(mean))))
        return x + y * weight[:, None]


class EcapaTdnn(nnx.Module):
    """Features [B, T, D], mask [B, T] -> embeddings [B, E], not of unit length."""

    def __init__(self, config: WavlmConfig, *, rngs: nnx.Rngs):
        size, pooled = config.speaker_channels, config.pooled
        conv = partial(nn.Conv1d, rngs=rngs)
        self.stem = ConvNorm(config.dim, size, 5, rngs=rngs)
        self.blocks = nnx.List([Block(config, dilation, rngs=rngs) for dilation in DILATIONS])
        self.conv = conv(len(DILATIONS) * size, pooled, 1, ("embed", "mlp"))
        self.attention1 = conv(pooled, config.bottleneck, 1, ("embed", "mlp"))
        self.attention2 = conv(config.bottleneck, pooled, 1, ("mlp", "embed"))
        self.bn = BatchNorm(2 * pooled, rngs=rngs)
        self.linear = nn.Linear(2 * pooled, config.embedding, ("embed", None), rngs=rngs)

    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        mask = mask[..., None]
        x = self.stem(instance_norm(x, mask), mask)
        outputs = []
        for block in self.blocks:
            x = block(x, mask)
            outputs.append(x)
        x = jax.nn.relu(self.conv(jnp.concatenate(outputs, -1)))
        logits = self.attention2(jnp.tanh(self.attention1(x)))
        weight = jax.nn.softmax(jnp.where(mask > 0, logits, -1e30), axis=1)
        mean = (weight * x).sum(1)
        variance = (weight * jnp.square(x)).sum(1) - jnp.square(mean)
        deviation = jnp.sqrt(jnp.maximum(variance, 1e-9))
        return self.linear(self.bn(jnp.concatenate([mean, deviation], -1)))


def instance_norm(x: jax.Array, mask: jax.Array) -> jax.Array:
    """Each channel of x [B, T, C] with mean 0 and variance 1 over the frames of mask [B, T, 1]."""
    count = jnp.maximum(mask.sum(1, keepdims=True), 1.0)
    centred = (x - (x * mask).sum(1, keepdims=True) / count) * mask
    return centred * jax.lax.rsqrt(jnp.square(centred).sum(1, keepdims=True) / count + EPS)
