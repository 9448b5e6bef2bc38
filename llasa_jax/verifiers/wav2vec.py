"""What HuBERT, WavLM and emotion2vec have in common: the layers of wav2vec 2.0.

Baevski et al. 2020: seven convolutions over the normalised wave, 50 frames a second, and a
transformer whose positions come from convolutions over the frames. Padding never reaches a valid
frame: a padded batch gives the same features as each wave alone. Kernels are [in, out].
"""

from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from llasa_jax import nn
from llasa_jax.config import SpeechConfig
from llasa_jax.verifiers.attention import attend, by_heads

RATE = 16000
CONVOLUTIONS = ((10, 5), *((3, 2),) * 4, *((2, 2),) * 2)  # width and stride of each
EPS = 1e-5

gelu = partial(jax.nn.gelu, approximate=False)


def frame_counts(lengths: jax.Array) -> jax.Array:
    """Frames of waves of so many samples: those whose convolutions see no padding."""
    for width, stride in CONVOLUTIONS:
        lengths = jnp.maximum((lengths - width) // stride + 1, 0)
    return lengths


def normalise(waves: jax.Array, lengths: jax.Array, eps: float) -> jax.Array:
    """Waves [B, samples] with mean 0 and variance 1 over `lengths` [B], zero after them."""
    weight = (jnp.arange(waves.shape[1]) < lengths[:, None]).astype(jnp.float32)
    count = jnp.maximum(weight.sum(1, keepdims=True), 1.0)
    centred = (waves - (waves * weight).sum(1, keepdims=True) / count) * weight
    variance = jnp.square(centred).sum(1, keepdims=True) / count
    return centred * jax.lax.rsqrt(variance + eps)


class ConvLayer(nnx.Module):
    """gelu(norm(conv(x))), x [B, T, channels]; the convolution sees whole windows only."""

    def __init__(
        self, config: SpeechConfig, size_in: int, width: int, stride: int, *, rngs: nnx.Rngs
    ):
        self.conv = nn.Conv1d(
            size_in,
            config.channels,
            width,
            (None, "embed"),
            stride=stride,
            padding=(0, 0),
            bias=config.conv_bias,
            rngs=rngs,
        )
        self.layer_norm = nn.LayerNorm(config.channels, eps=EPS, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return gelu(self.layer_norm(self.conv(x)))


class Frames(nnx.Module):
    """Normalised waves [B, samples], lengths [B] -> frames [B, T, D] and their mask [B, T]."""

    def __init__(self, config: SpeechConfig, *, rngs: nnx.Rngs):
        sizes = [1, *(config.channels,) * (len(CONVOLUTIONS) - 1)]
        self.conv_layers = nnx.List(
            [
                ConvLayer(config, size, *shape, rngs=rngs)
                for size, shape in zip(sizes, CONVOLUTIONS, strict=True)
            ]
        )
        self.layer_norm = nn.LayerNorm(config.channels, eps=EPS, rngs=rngs)
        self.projection = nn.Linear(config.channels, config.dim, (None, "embed"), rngs=rngs)
        self.dtype = jnp.dtype(config.compute_dtype)

    def __call__(self, waves: jax.Array, lengths: jax.Array) -> tuple[jax.Array, jax.Array]:
        least = samples_of(1)
        x = jnp.pad(waves, ((0, 0), (0, max(least - waves.shape[1], 0))))[..., None]
        x = x.astype(self.dtype)
        for layer in self.conv_layers:
            x = layer(x)
        mask = (jnp.arange(x.shape[1]) < frame_counts(lengths)[:, None]).astype(jnp.float32)
        return self.projection(self.layer_norm(x)), mask


def samples_of(frames: int) -> int:
    """Samples that so many frames hear."""
    for width, stride in reversed(CONVOLUTIONS):
        frames = (frames - 1) * stride + width
    return frames


class PositionConv(nnx.Module):
    """gelu(grouped convolution of x [B, T, D]), without what its mask [B, T] leaves out."""

    def __init__(self, config: SpeechConfig, *, rngs: nnx.Rngs):
        dim, width = config.dim, config.position_width
        self.conv = nn.Conv1d(
            dim,
            dim,
            width,
            (None, "embed"),
            groups=config.position_groups,
            padding=(width // 2, (width - 1) // 2),  # of an even width, the last one is cut
            rngs=rngs,
        )

    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        return gelu(self.conv(x * mask[..., None].astype(x.dtype)))


class SelfAttention(nnx.Module):
    """Multi-head attention of x [B, T, D] to the frames of its mask [B, T]."""

    def __init__(self, config: SpeechConfig, *, rngs: nnx.Rngs):
        self.heads = config.heads
        self.qkv = nn.Linear(config.dim, 3 * config.dim, ("embed", "heads"), rngs=rngs)
        self.out_proj = nn.Linear(config.dim, config.dim, ("heads", "embed"), rngs=rngs)

    def __call__(self, x: jax.Array, mask: jax.Array, bias: jax.Array | None = None) -> jax.Array:
        """`bias` is added to the scores; of a shape that broadcasts to [B, N, T, T]."""
        q, k, v = (by_heads(part, self.heads) for part in jnp.split(self.qkv(x), 3, -1))
        return self.out_proj(attend(q, k, v, mask[:, None, None], bias))


class Layer(nnx.Module):
    """x + attention(norm(x)), then + gelu feed-forward(norm(x)); x [B, T, D]."""

    def __init__(self, config: SpeechConfig, *, rngs: nnx.Rngs):
        norm = partial(nn.LayerNorm, config.dim, eps=EPS, rngs=rngs)
        self.attention, self.layer_norm = SelfAttention(config, rngs=rngs), norm()
        self.fc1 = nn.Linear(config.dim, config.ffn, ("embed", "mlp"), rngs=rngs)
        self.fc2 = nn.Linear(config.ffn, config.dim, ("mlp", "embed"), rngs=rngs)
        self.final_layer_norm = norm()

    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        x = x + self.attention(self.layer_norm(x), mask)
        return x + self.feed_forward(self.final_layer_norm(x))

    def feed_forward(self, x: jax.Array) -> jax.Array:
        return self.fc2(gelu(self.fc1(x)))
