"""The semantic branch: what a frozen speech-understanding model hears, and its trained adapter.

Parameters: `model`, frozen (`conformer.Wav2Vec2Bert` or `recogniser.RecogniserEncoder`), and
`adapter` with conv1 to conv4, named as transformers' Xcodec2SemanticAdapter names them.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from llasa_jax import nn
from llasa_jax.audio.kaldi import stacked_fbank
from llasa_jax.codec.conformer import Wav2Vec2Bert
from llasa_jax.codec.recogniser import RecogniserEncoder
from llasa_jax.config import SemanticConfig
from llasa_jax.errors import UserError

RATES = {"wav2vec2-bert": (50,), "recogniser": (50, 25)}  # hops a second that each can serve


class SemanticAdapter(nnx.Module):
    """conv(r + conv(relu(conv(r)))) with r = relu(conv(x)), all of width 3; x [B, T, D].

    The skip starts after the ReLU: X-Codec2's is in place and overwrites what is skipped.
    """

    def __init__(self, dim: int, *, rngs: nnx.Rngs):
        conv = partial(nn.Conv1d, dim, dim, 3, rngs=rngs)
        self.conv1 = conv(("embed", "mlp"), bias=False)
        self.conv2 = conv(("mlp", "embed"))
        self.conv3 = conv(("embed", "mlp"))
        self.conv4 = conv(("mlp", "embed"), bias=False)

    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        """`mask` [B, T] is 1 on real frames: past them every convolution sees zeros."""
        weight = mask[..., None].astype(x.dtype)
        skip = jax.nn.relu(self.conv1(x * weight)) * weight
        h = jax.nn.relu(self.conv2(skip)) * weight
        return self.conv4((skip + self.conv3(h)) * weight)


class SemanticDecoder(SemanticAdapter):
    """Quantised features [B, T, D] -> the frozen model's features; only training needs it."""


class SemanticBranch(nnx.Module):
    """Features of wave [B, T * hop], one a hop: frozen model, then adapter.

    Args:
        sample_rate, hop: the codec's; 50 hops a second, or 25 with a recogniser.
        scan: whether layers are scanned (compiled once) or unrolled.
        dtype: what the frozen model computes in; its filter banks are always float32.

    Raises:
        UserError: if the model has no feature for each hop.
    """

    def __init__(
        self,
        config: SemanticConfig,
        sample_rate: int,
        hop: int,
        *,
        scan: bool = True,
        dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.config, self.sample_rate, self.hop, self.dtype = config, sample_rate, hop, dtype
        if sample_rate not in [hop * rate for rate in RATES[config.kind]]:
            rate = RATES[config.kind][0]
            raise UserError(
                f"codec.semantic: {config.kind} has {rate} features a second, the codec "
                f"{sample_rate / hop:g}; set codec.hop to {sample_rate / rate:g}"
            )
        if config.kind == "recogniser":
            if config.recogniser.sample_rate != sample_rate:
                raise UserError(
                    f"codec.semantic.recogniser.sample_rate: {config.recogniser.sample_rate}, "
                    f"but the codec hears {sample_rate}; take a recogniser of that rate"
                )
            self.model = RecogniserEncoder(config.recogniser, rngs=rngs)
        else:
            if config.edge not in (0, hop // 2):
                raise UserError(f"codec.semantic.edge: {config.edge}; set 0 or {hop // 2}")
            self.model = Wav2Vec2Bert(config, scan, rngs=rngs)
        self.adapter = SemanticAdapter(config.dim, rngs=rngs)

    def valid(self, mask: jax.Array) -> jax.Array:
        """The frames of mask [B, T] that have features: without `edge`, not an item's last."""
        if self.config.kind == "wav2vec2-bert" and self.config.edge == 0:
            return jnp.pad(mask[:, 1:], ((0, 0), (0, 1)))
        return mask

    def hidden(self, wave: jax.Array, mask: jax.Array) -> jax.Array:
        """Frozen features [B, T, D] of wave [B, T * hop], zero where `valid` is; no gradient."""
        return jax.lax.stop_gradient(self.heard(wave, mask))

    def heard(self, wave: jax.Array, mask: jax.Array) -> jax.Array:
        """What `hidden` is, with the gradient to the wave."""
        config = self.config
        if config.kind == "recogniser":
            lengths = mask.sum(1).astype(jnp.int32) * self.hop
            features, _ = self.model.features(wave, lengths)
            hops = jnp.arange(mask.shape[1])
            if self.hop * 25 == self.sample_rate:  # frames stand at both ends of each hop
                features = (features[:, hops] + features[:, hops + 1]) / 2
            else:  # of the frames every 40 ms, the one nearest to each hop's middle
                features = features[:, (hops + 1) // 2]
            valid = mask
        else:
            banks, valid = stacked_fbank(
                wave, mask, rate=self.sample_rate, bins=config.mel_bins, edge=config.edge
            )
            features = self.model(banks.astype(self.dtype), valid)
        return jnp.where(valid[..., None] > 0, features, 0)

    def adapt(self, hidden: jax.Array, mask: jax.Array) -> jax.Array:
        """The adapter's features [B, T, D] of frozen ones."""
        return self.adapter(hidden, self.valid(mask))

    def __call__(self, wave: jax.Array, mask: jax.Array) -> jax.Array:
        """Features [B, T, D] of wave [B, T * hop]; mask [B, T] is 1 on each item's hops."""
        return self.adapt(self.hidden(wave, mask), mask)
