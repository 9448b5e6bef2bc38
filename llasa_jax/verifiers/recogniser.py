"""A small CTC recogniser of characters: content verifier, and judge for other languages.

Log-mel frames (100 a second) are normalised over the utterance, brought to 25 a second by two
strided convolutions and passed through residual layers, either convolutions over time or a
bidirectional transformer. Each frame gives two outputs, 50 a second, because fast speech holds
more than 25 characters a second. Padding never reaches a valid frame: a padded batch gives the
same outputs as each wave alone.
"""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from llasa_jax.audio.spectral import log_mel
from llasa_jax.config import RecogniserConfig
from llasa_jax.errors import UserError
from llasa_jax.nn import Conv1d, LayerNorm, Linear, Stack, abstract, merge, split
from llasa_jax.verifiers.characters import collapse, encode
from llasa_jax.verifiers.protocol import Candidates, Verifier

WINDOW_SECONDS, HOP_SECONDS = 0.03, 0.01
OUTPUTS = 2  # a frame of 40 ms
LABEL_MULTIPLE = 32  # of a reference's length, so that few programs are compiled
PAD_SECONDS = 1.28  # waves are padded to multiples of this
EPS = 1e-5


def mel_features(
    waves: jax.Array, lengths: jax.Array, *, rate: int, bins: int, each_bin: bool = True
) -> tuple[jax.Array, jax.Array]:
    """Log-mel frames with mean 0 and variance 1 over the valid frames of each utterance.

    Args:
        waves: [B, samples]; what lies past `lengths` [B] is ignored.
        each_bin: normalise each mel bin on its own; False takes one mean and one variance, which
            evens out the level and keeps the shape of the voice's spectrum.

    Returns:
        frames [B, T, bins], 100 a second, zero where invalid, and their mask [B, T].
    """
    window, hop = round(WINDOW_SECONDS * rate), round(HOP_SECONDS * rate)
    valid = jnp.arange(waves.shape[1]) < lengths[:, None]
    # Zeros after the end, so that no valid frame sees the reflection of a padded batch's edge.
    silent_end = jnp.pad(jnp.where(valid, waves, 0.0), ((0, 0), (0, window)))
    frames = log_mel(silent_end, rate=rate, window=window, hop=hop, bins=bins, fmin=20.0)
    frames = frames[:, : waves.shape[1] // hop + 1]
    mask = (jnp.arange(frames.shape[1]) <= lengths[:, None] // hop).astype(jnp.float32)
    weight = mask[..., None] / mask.sum(1)[:, None, None]
    average = lambda x: x if each_bin else x.mean(-1, keepdims=True)  # noqa: E731
    mean = average((frames * weight).sum(1, keepdims=True))
    variance = average((jnp.square(frames - mean) * weight).sum(1, keepdims=True))
    frames = (frames - mean) * jax.lax.rsqrt(variance + 0.01)
    return frames * mask[..., None], mask


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


class Recogniser(nnx.Module):
    """waves [B, samples], lengths [B] -> logits [B, T, 1 + characters] at 50 a second."""

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
        self.head = Linear(dim, OUTPUTS * (1 + len(config.alphabet)), ("embed", None), rngs=rngs)

    def __call__(self, waves: jax.Array, lengths: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns logits (class 0 is the blank) and their mask [B, T], 1 = valid."""
        config = self.config
        x, mask = mel_features(waves, lengths, rate=config.sample_rate, bins=config.mel_bins)
        x = jax.nn.relu(self.stem1(x)) * mask[:, ::2, None]
        x, mask = self.stem2(x), mask[:, ::4]
        x, _ = self.layers(x, mask)
        logits = self.head(self.norm(x)).reshape(*x.shape[:1], -1, 1 + len(config.alphabet))
        return logits, jnp.repeat(mask, OUTPUTS, axis=1)


def ctc_loss_per_character(logits: jax.Array, mask: jax.Array, labels: jax.Array) -> jax.Array:
    """CTC's negative log-likelihood over the number of characters (Graves et al. 2006), [B].

    Args:
        logits: [B, T, classes], class 0 is the blank.
        mask: [B, T], 1 = valid.
        labels: int32 [B, L], 0 = padding. Longer than T can hold, the loss is about 1e5.
    """
    padding = (labels == 0).astype(jnp.float32)
    loss = optax.ctc_loss(logits, 1.0 - mask, labels, padding)
    return loss / jnp.maximum((1.0 - padding).sum(1), 1.0)


def init_recogniser(config: RecogniserConfig, key: jax.Array) -> dict:
    """Fresh parameters."""
    return split(Recogniser(config, rngs=nnx.Rngs(key)))[1]


def recogniser_definition(config: RecogniserConfig) -> nnx.GraphDef:
    """The static half, for `llasa_jax.nn.merge`."""
    return abstract(lambda rngs: Recogniser(config, rngs=rngs))[0]


class BatchRecogniser:
    """Greedy transcripts of lists of waves of any lengths, each as it would be alone.

    `name` is what it is called when it judges.
    """

    def __init__(
        self, config: RecogniserConfig, params: dict, *, name: str = "recogniser", batch: int = 16
    ):
        graphdef = recogniser_definition(config)

        def best(params: dict, waves: jax.Array, lengths: jax.Array) -> jax.Array:
            logits, mask = merge(graphdef, params)(waves, lengths)
            return jnp.where(mask > 0, logits.argmax(-1), 0)

        self.config, self.params, self.name, self.batch = config, params, name, batch
        self._best = jax.jit(best)

    def transcribe(self, waves: Sequence[np.ndarray]) -> list[str]:
        """What is said in each wave, float32 [samples] at the recogniser's rate."""
        texts = [""] * len(waves)
        order = sorted(range(len(waves)), key=lambda i: len(waves[i]))
        for start in range(0, len(order), self.batch):
            items = order[start : start + self.batch]
            unit = round(PAD_SECONDS * self.config.sample_rate)
            size = -(-max(len(waves[items[-1]]), 1) // unit) * unit
            padded = np.zeros((self.batch, size), np.float32)
            lengths = np.zeros(self.batch, np.int32)
            for row, i in enumerate(items):
                padded[row, : len(waves[i])] = waves[i]
                lengths[row] = len(waves[i])
            paths = np.asarray(self._best(self.params, padded, lengths))
            for row, i in enumerate(items):
                texts[i] = collapse(paths[row], self.config.alphabet)
        return texts


def content_verifier(config: RecogniserConfig, params: dict, name: str = "content") -> Verifier:
    """Scores are minus the CTC loss a character of the reference text, which must be normalised."""
    graphdef = recogniser_definition(config)

    def score(params: dict, candidates: Candidates, labels: jax.Array) -> jax.Array:
        logits, mask = merge(graphdef, params)(candidates.waves, candidates.lengths)
        rows = jnp.broadcast_to(labels, (logits.shape[0], labels.shape[0]))
        return -ctc_loss_per_character(logits, mask, rows)

    def reference(text: str, wave: np.ndarray | None) -> np.ndarray:
        labels = encode(text, config.alphabet)
        if not len(labels):
            raise UserError(f"text {text!r}: no character that the recogniser knows; change it")
        return np.pad(labels, (0, -len(labels) % LABEL_MULTIPLE))

    return Verifier(name, params, score, reference)
