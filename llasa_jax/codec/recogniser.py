"""A small recogniser's layers, before its outputs: features of speech, 25 a second.

Log-mel frames (100 a second) are normalised over the utterance, brought to 25 a second by two
strided convolutions and passed through residual layers, either convolutions over time or a
bidirectional transformer. Padding never reaches a valid frame: a padded batch gives the same
features as each wave alone. `verifiers.recogniser` trains them, with a CTC output layer.
"""

from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from llasa_jax.audio.spectral import mel_features
from llasa_jax.config import RecogniserConfig
from llasa_jax.nn import Conv1d, LayerNorm, Linear, Stack

EPS = 1e-5


class ConvLayer(nnx.Module):
    """x + relu(conv(norm(x))), x [B, T, D]."""

    def __init__(self, config: RecogniserConfig, *, rngs: nnx.Rngs):
        dim = config.dim
        self.norm = LayerNorm(dim, eps=EPS, rngs=rngs)
        self.conv = Conv1d(dim, dim, config.width, ("embed", "mlp"), rngs=rngs)

    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        return x + jax.nn.relu(self.conv(self.norm(x) * mask[..., None]))


class TransformerLayer(nnx.Module):
    """Pre-norm bidirectional attention and feed-forward, x [B, T, D]."""

    def __init__(self, config: RecogniserConfig, *, rngs: nnx.Rngs):
        dim = config.dim
        self.heads = config.heads
        self.norm1 = LayerNorm(dim, eps=EPS, rngs=rngs)
        self.qkv = Linear(dim, 3 * dim, ("embed", "heads"), rngs=rngs)
        self.out = Linear(dim, dim, ("heads", "embed"), rngs=rngs)
        self.norm2 = LayerNorm(dim, eps=EPS, rngs=rngs)
        self.up = Linear(dim, 4 * dim, ("embed", "mlp"), rngs=rngs)
        self.down = Linear(4 * dim, dim, ("mlp", "embed"), rngs=rngs)

    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        batch, time, dim = x.shape
        q, k, v = jnp.split(self.qkv(self.norm1(x)).reshape(batch, time, self.heads, -1), 3, -1)
        logits = jnp.einsum("bthe,bshe->bhts", rotate(q), rotate(k)) * q.shape[-1] ** -0.5
        logits = jnp.where(mask[:, None, None, :] > 0, logits, -1e9)
        mixed = jnp.einsum("bhts,bshe->bthe", jax.nn.softmax(logits), v)
        x = x + self.out(mixed.reshape(batch, time, dim))
        return x + self.down(jax.nn.relu(self.up(self.norm2(x))))


def rotate(x: jax.Array) -> jax.Array:
    """Rotary positions (Su et al. 2021): x [B, T, heads, H] -> the same shape."""
    half = x.shape[-1] // 2
    angle = jnp.arange(x.shape[1])[:, None] * 1000.0 ** (-jnp.arange(half) / half)
    cos, sin = jnp.cos(angle)[:, None], jnp.sin(angle)[:, None]
    first, second = x[..., :half], x[..., half:]
    return jnp.concatenate([first * cos - second * sin, first * sin + second * cos], -1)


class RecogniserEncoder(nnx.Module):
    """waves [B, samples], lengths [B] -> features [B, T, D] at 25 a second."""

    def __init__(self, config: RecogniserConfig, *, rngs: nnx.Rngs):
        dim = config.dim
        self.config = config
        self.stem1 = Conv1d(config.mel_bins, dim, 5, (None, "embed"), stride=2, rngs=rngs)
        self.stem2 = Conv1d(dim, dim, 5, ("embed", "mlp"), stride=2, rngs=rngs)
        layer = {"conv": ConvLayer, "transformer": TransformerLayer}[config.kind]
        # XLA runs convolutions inside a loop very slowly on CPUs: only the transformer is scanned.
        scan = config.kind == "transformer"
        self.layers = Stack(partial(layer, config), config.layers, scan=scan, rngs=rngs)
        self.norm = LayerNorm(dim, eps=EPS, rngs=rngs)

    def features(self, waves: jax.Array, lengths: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns features, frame i about the sound at i * 40 ms, and their mask [B, T]."""
        config = self.config
        x, mask = mel_features(waves, lengths, rate=config.sample_rate, bins=config.mel_bins)
        x = jax.nn.relu(self.stem1(x)) * mask[:, ::2, None]
        x, mask = self.stem2(x), mask[:, ::4]
        x, _ = self.layers(x, mask)
        return self.norm(x), mask
