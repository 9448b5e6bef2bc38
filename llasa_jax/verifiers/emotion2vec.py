"""emotion2vec+ (Ma et al. 2023): how alike two utterances are in emotion, and which one it is.

data2vec 2.0's audio encoder: wav2vec 2.0's convolutions, five more that tell positions apart,
learned extra frames, and post-norm transformer layers whose attention falls with distance (ALiBi,
Press et al. 2022) as steeply as each head has learned. An utterance's embedding is the mean of its
frames. The arithmetic is that of FunASR's Emotion2vec. Waves are at 16 kHz.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from llasa_jax import nn
from llasa_jax.config import Emotion2vecConfig
from llasa_jax.verifiers.protocol import Verifier
from llasa_jax.verifiers.speaker import likeness_verifier, unit
from llasa_jax.verifiers.wav2vec import EPS, RATE, Frames, Layer, PositionConv, gelu, normalise

WAVE_EPS = 1e-5
EMOTIONS = (  # of the released model's classes
    "angry",
    "disgusted",
    "fearful",
    "happy",
    "neutral",
    "other",
    "sad",
    "surprised",
    "unknown",
)


def slopes(heads: int) -> list[float]:
    """How steeply each head's scores fall with distance: 2^(-8 i / heads), i from 1.

    Of other numbers of heads than powers of two: those of the power below, then every second one
    of the power above.
    """
    power = 2 ** math.floor(math.log2(heads))
    first = [2.0 ** (-8.0 * i / power) for i in range(1, power + 1)]
    return first if power == heads else first + slopes(2 * power)[::2][: heads - power]


class PositionLayer(PositionConv):
    """gelu(norm(grouped convolution)), the norm without scale and bias."""

    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        x = self.conv(x * mask[..., None].astype(x.dtype)).astype(jnp.float32)
        centred = x - x.mean(-1, keepdims=True)
        variance = jnp.square(centred).mean(-1, keepdims=True)
        return gelu(centred * jax.lax.rsqrt(variance + EPS))


class PostNormLayer(Layer):
    """norm(x + attention(x)), then norm(x + gelu feed-forward(x)); x [B, T, D]."""

    def __call__(self, x: jax.Array, mask: jax.Array, bias: jax.Array) -> jax.Array:
        x = self.layer_norm(x + self.attention(x, mask, bias))
        return self.final_layer_norm(x + self.feed_forward(x))


class Context(nnx.Module):
    """Extra frames before x [B, T, D], a norm and the first layers; the bias of all layers."""

    def __init__(self, config: Emotion2vecConfig, *, rngs: nnx.Rngs):
        shape = (1, config.extra, config.dim)
        self.extra_tokens = nn.param(rngs, shape, (None, None, "embed"), nn.normal(0.02))
        self.alibi_scale = nn.param(rngs, (1, 1, config.heads, 1, 1), (None,) * 5, nn.ones)
        self.norm = nn.LayerNorm(config.dim, eps=EPS, rngs=rngs)
        self.layers = nn.Stack(partial(PostNormLayer, config), config.prenet, rngs=rngs)
        self.heads = config.heads

    def __call__(self, x: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        batch, time, _ = x.shape
        extra = self.extra_tokens.shape[1]
        places = np.arange(time, dtype=np.float32)
        steep = np.array(slopes(self.heads), np.float32)[:, None, None]
        fall = -np.abs(places - places[:, None]) * steep
        bias = jnp.maximum(self.alibi_scale[...][0, 0], 0.0) * fall
        bias = jnp.pad(bias, ((0, 0), (extra, 0), (extra, 0)))
        mask = jnp.pad(mask, ((0, 0), (extra, 0)), constant_values=1.0)
        tokens = jnp.broadcast_to(
            self.extra_tokens[...].astype(x.dtype), (batch, extra, x.shape[2])
        )
        x = self.norm(jnp.concatenate([tokens, x], 1))
        return self.layers(x, mask, bias)[0], mask, bias


class Emotion2vec(nnx.Module):
    """Waves [B, samples], lengths [B] -> mean features [B, D] of whole utterances."""

    def __init__(self, config: Emotion2vecConfig, *, rngs: nnx.Rngs):
        self.extra = config.extra
        self.frames = Frames(config, rngs=rngs)
        self.positions = nnx.List(
            [PositionLayer(config, rngs=rngs) for _ in range(config.position_layers)]
        )
        self.context = Context(config, rngs=rngs)
        self.layers = nn.Stack(partial(PostNormLayer, config), config.layers, rngs=rngs)
        self.proj = nn.Linear(config.dim, config.classes, ("embed", None), rngs=rngs)

    def __call__(self, waves: jax.Array, lengths: jax.Array) -> jax.Array:
        x, mask = self.frames(normalise(waves, lengths, WAVE_EPS), lengths)
        place = x
        for layer in self.positions:
            place = layer(place, mask)
        x, seen, bias = self.context(x + place.astype(x.dtype), mask)
        x = self.layers(x, seen, bias)[0][:, self.extra :].astype(jnp.float32)
        total = (x * mask[..., None]).sum(1)
        return total / jnp.maximum(mask.sum(1, keepdims=True), 1.0)

    def logits(self, embeddings: jax.Array) -> jax.Array:
        """Of each emotion, [B, classes], of mean features [B, D]."""
        return self.proj(embeddings)


def emotion2vec_definition(config: Emotion2vecConfig) -> nnx.GraphDef:
    """The static half, for `llasa_jax.nn.merge`."""
    return nn.abstract(lambda rngs: Emotion2vec(config, rngs=rngs))[0]


def emotion2vec_verifier(
    config: Emotion2vecConfig, params: dict, name: str = "emotion2vec"
) -> Verifier:
    """Scores are cosines of the utterances' embeddings: of candidate and reference wave."""
    graphdef = emotion2vec_definition(config)

    def embed(params: dict, waves: jax.Array, lengths: jax.Array) -> jax.Array:
        return unit(nn.merge(graphdef, params)(waves, lengths))

    return likeness_verifier(embed, params, rate=RATE, name=name)
