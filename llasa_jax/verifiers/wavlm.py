"""WavLM-large with ECAPA-TDNN on top: the speaker verifier of seed-tts-eval.

WavLM (Chen et al. 2022) is HuBERT with a bias on the attention scores: one learned number a head
for each distance of two frames, weighted by a gate that each frame computes. The speaker encoder
hears a learned mixture of all its layers. The arithmetic is that of microsoft/UniSpeech's WavLM
and of its ECAPA_TDNN_SMALL with s3prl's hidden states. Waves are at 16 kHz.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from llasa_jax import nn
from llasa_jax.config import WavlmConfig
from llasa_jax.verifiers.attention import by_heads
from llasa_jax.verifiers.ecapa import EcapaTdnn
from llasa_jax.verifiers.protocol import Verifier
from llasa_jax.verifiers.speaker import likeness_verifier, unit
from llasa_jax.verifiers.wav2vec import (
    EPS,
    RATE,
    Frames,
    Layer,
    PositionConv,
    SelfAttention,
    normalise,
)

WAVE_EPS = 1e-5


def distance_buckets(frames: int, buckets: int, farthest: int) -> np.ndarray:
    """Bucket of the distance from each frame to each other, int32 [frames, frames].

    Half of the buckets are for later frames; half of a half are for one distance each, the others
    grow logarithmically up to `farthest` (Raffel et al. 2020).
    """
    half, exact = buckets // 2, buckets // 4
    distance = np.arange(frames) - np.arange(frames)[:, None]
    size = np.abs(distance)
    ratio = np.log(np.maximum(size, 1).astype(np.float32) / np.float32(exact))
    far = ratio / np.float32(np.log(farthest / exact)) * np.float32(half - exact)
    far = np.minimum(exact + far.astype(np.int32), half - 1)
    return (distance > 0) * half + np.where(size < exact, size, far).astype(np.int32)


class GatedAttention(SelfAttention):
    """Attention with a bias [N, T, T] that each frame's gate weights."""

    def __init__(self, config: WavlmConfig, *, rngs: nnx.Rngs):
        super().__init__(config, rngs=rngs)
        self.grep_linear = nn.Linear(config.dim // config.heads, 8, (None, None), rngs=rngs)
        self.grep_a = nn.param(rngs, (1, config.heads, 1, 1), (None,) * 4, nn.ones)

    def __call__(self, x: jax.Array, mask: jax.Array, bias: jax.Array) -> jax.Array:
        opened = self.grep_linear(by_heads(x, self.heads))
        opened = jax.nn.sigmoid(opened.reshape(*opened.shape[:-1], 2, 4).sum(-1))
        gate = opened[..., :1] * (opened[..., 1:] * self.grep_a[...] - 1.0) + 2.0
        return super().__call__(x, mask, gate * bias)


class WavlmLayer(Layer):
    """A layer that adds its input, times a weight, to what the speaker encoder hears."""

    def __init__(self, config: WavlmConfig, *, rngs: nnx.Rngs):
        super().__init__(config, rngs=rngs)
        self.attention = GatedAttention(config, rngs=rngs)

    def __call__(
        self, carry: tuple, mask: jax.Array, bias: jax.Array, weight: jax.Array
    ) -> tuple[tuple, None]:
        x, heard = carry
        heard = heard + weight * x
        x = x + self.attention(self.layer_norm(x), mask, bias)
        return (x + self.feed_forward(self.final_layer_norm(x)), heard), None


class Wavlm(nnx.Module):
    """Waves [B, samples], lengths [B] -> the mixture of all layers [B, T, D] and its mask."""

    def __init__(self, config: WavlmConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.frames = Frames(config, rngs=rngs)
        self.positions = PositionConv(config, rngs=rngs)
        self.layers = nn.Stack(partial(WavlmLayer, config), config.layers, rngs=rngs)
        self.layer_norm = nn.LayerNorm(config.dim, eps=EPS, rngs=rngs)
        shape = (config.buckets, config.heads)
        self.relative_attention_bias = nn.param(rngs, shape, (None, None), nn.normal(0.02))
        self.feature_weight = nn.param(rngs, (config.layers + 1,), (None,), nn.zeros)

    def __call__(self, waves: jax.Array, lengths: jax.Array) -> tuple[jax.Array, jax.Array]:
        config = self.config
        x, mask = self.frames(normalise(waves, lengths, WAVE_EPS), lengths)
        x = x * mask[..., None].astype(x.dtype)
        x = x + self.positions(x, mask)
        buckets = distance_buckets(x.shape[1], config.buckets, config.farthest)
        bias = jnp.moveaxis(self.relative_attention_bias[...][buckets], -1, 0)
        weights = jax.nn.softmax(self.feature_weight[...]).astype(x.dtype)
        start = (x, jnp.zeros_like(x))
        (x, heard), _ = self.layers(start, mask, bias, each=weights[:-1])
        heard = heard + weights[-1] * self.layer_norm(x)
        return heard.astype(jnp.float32), mask


class WavlmSpeaker(nnx.Module):
    """Waves [B, samples], lengths [B] -> unit embeddings [B, E] of their voices."""

    def __init__(self, config: WavlmConfig, *, rngs: nnx.Rngs):
        self.wavlm = Wavlm(config, rngs=rngs)
        self.ecapa = EcapaTdnn(config, rngs=rngs)

    def __call__(self, waves: jax.Array, lengths: jax.Array) -> jax.Array:
        return unit(self.ecapa(*self.wavlm(waves, lengths)))


def wavlm_definition(config: WavlmConfig) -> nnx.GraphDef:
    """The static half, for `llasa_jax.nn.merge`."""
    return nn.abstract(lambda rngs: WavlmSpeaker(config, rngs=rngs))[0]


def wavlm_verifier(config: WavlmConfig, params: dict, name: str = "wavlm") -> Verifier:
    """Scores are cosines of the voices of candidate and reference wave, as seed-tts-eval's SIM."""
    graphdef = wavlm_definition(config)

    def embed(params: dict, waves: jax.Array, lengths: jax.Array) -> jax.Array:
        return nn.merge(graphdef, params)(waves, lengths)

    return likeness_verifier(embed, params, rate=RATE, name=name)
