"""A small speaker encoder: waves to unit embeddings that are close for one voice.

Log-mel frames, their level evened out over the utterance, pass a few dilated convolutions at 50
frames a second; attentive statistics pooling (Okabe et al. 2018) weighs the frames' means and
deviations, and a linear map gives the embedding. Trained by additive-margin softmax (Wang et al.
2018) over the corpus's speakers.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from llasa_jax.audio.spectral import mel_features
from llasa_jax.config import SpeakerConfig
from llasa_jax.errors import UserError
from llasa_jax.nn import Conv1d, LayerNorm, Linear, abstract, lecun, merge, param, split
from llasa_jax.verifiers.protocol import Candidates, Verifier

MARGIN, SCALE = 0.2, 20.0
EPS = 1e-5


class SpeakerEncoder(nnx.Module):
    """waves [B, samples], lengths [B] -> unit embeddings [B, E]; padding changes nothing."""

    def __init__(self, config: SpeakerConfig, *, rngs: nnx.Rngs):
        size = config.channels
        self.config = config
        self.stem = Conv1d(config.mel_bins, size, 5, (None, "embed"), stride=2, rngs=rngs)
        self.norms = nnx.List([LayerNorm(size, eps=EPS, rngs=rngs) for _ in range(config.layers)])
        self.convs = nnx.List(
            [
                Conv1d(size, size, 3, ("embed", "mlp"), dilation=1 + i, rngs=rngs)
                for i in range(config.layers)
            ]
        )
        self.attention = Linear(size, size, ("embed", "mlp"), rngs=rngs)
        self.attention_out = Linear(size, size, ("mlp", "embed"), rngs=rngs)
        self.norm = LayerNorm(2 * size, eps=EPS, rngs=rngs)
        self.head = Linear(2 * size, config.embedding, ("embed", None), rngs=rngs)

    def __call__(self, waves: jax.Array, lengths: jax.Array) -> jax.Array:
        rate, bins = self.config.sample_rate, self.config.mel_bins
        x, mask = mel_features(waves, lengths, rate=rate, bins=bins, each_bin=False)
        x, mask = self.stem(x), mask[:, ::2, None]
        for norm, conv in zip(self.norms, self.convs, strict=True):
            x = x + jax.nn.relu(conv(norm(x) * mask))
        logits = self.attention_out(jnp.tanh(self.attention(x)))
        weight = jax.nn.softmax(jnp.where(mask > 0, logits, -1e9), axis=1)
        mean = (weight * x).sum(1)
        variance = (weight * jnp.square(x - mean[:, None])).sum(1)
        pooled = self.norm(jnp.concatenate([mean, jnp.sqrt(variance + EPS)], -1))
        return unit(self.head(pooled))


def unit(x: jax.Array) -> jax.Array:
    """x over its Euclidean length, last axis."""
    return x * jax.lax.rsqrt(jnp.sum(x * x, -1, keepdims=True) + 1e-12)


class SpeakerClassifier(nnx.Module):
    """What is trained: the encoder and one direction a speaker, which scoring does not need."""

    def __init__(self, config: SpeakerConfig, speakers: int, *, rngs: nnx.Rngs):
        self.encoder = SpeakerEncoder(config, rngs=rngs)
        size = config.embedding
        self.classes = param(rngs, (speakers, size), (None, None), lecun(size))

    def __call__(self, waves: jax.Array, lengths: jax.Array) -> jax.Array:
        """Cosines with each speaker's direction, [B, speakers]."""
        return self.encoder(waves, lengths) @ unit(self.classes[...]).T


def init_classifier(config: SpeakerConfig, speakers: int, key: jax.Array) -> dict:
    """Fresh parameters; those under "encoder" are the speaker encoder's own."""
    return split(SpeakerClassifier(config, speakers, rngs=nnx.Rngs(key)))[1]


def classifier_definition(config: SpeakerConfig, speakers: int) -> nnx.GraphDef:
    return abstract(lambda rngs: SpeakerClassifier(config, speakers, rngs=rngs))[0]


def encoder_definition(config: SpeakerConfig) -> nnx.GraphDef:
    return abstract(lambda rngs: SpeakerEncoder(config, rngs=rngs))[0]


def margin_loss(cosines: jax.Array, speaker: jax.Array) -> jax.Array:
    """Additive-margin softmax loss, [B], of cosines [B, speakers] and true speakers int32 [B]."""
    target = jax.nn.one_hot(speaker, cosines.shape[-1])
    return -(target * jax.nn.log_softmax(SCALE * (cosines - MARGIN * target))).sum(-1)


def speaker_verifier(config: SpeakerConfig, params: dict, name: str = "speaker") -> Verifier:
    """Scores are cosines of candidate and reference wave; `params` are the encoder's."""
    graphdef = encoder_definition(config)

    def embed(params: dict, waves: jax.Array, lengths: jax.Array) -> jax.Array:
        return merge(graphdef, params)(waves, lengths)

    return likeness_verifier(embed, params, rate=config.sample_rate, name=name)


def likeness_verifier(
    embed: Callable[[dict, jax.Array, jax.Array], jax.Array], params: dict, *, rate: int, name: str
) -> Verifier:
    """Scores are cosines of the embeddings of candidate and reference wave.

    Args:
        embed: (params, waves [B, samples], lengths [B]) -> unit embeddings [B, E]; pure.
        rate: of the waves, a second.
    """
    embed = jax.jit(embed)

    def score(params: dict, candidates: Candidates, reference: jax.Array) -> jax.Array:
        return embed(params, candidates.waves, candidates.lengths) @ reference

    def reference(text: str, wave: np.ndarray | None) -> np.ndarray:
        if wave is None:
            raise UserError(f"verifier {name}: needs a wave of the voice; give one")
        padded, length = pad_wave(wave, rate)
        return np.asarray(embed(params, padded[None], np.array([length], np.int32))[0])

    return Verifier(name, params, score, reference, rate=rate)


def pad_wave(wave: np.ndarray, rate: int) -> tuple[np.ndarray, int]:
    """The wave padded to whole seconds (few programs are compiled) and its length."""
    return np.pad(wave, (0, -len(wave) % rate)).astype(np.float32), len(wave)
