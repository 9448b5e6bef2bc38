"""Waves to features, one a hop."""

from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from llasa_jax import nn
from llasa_jax.audio.spectral import log_mel
from llasa_jax.codec.blocks import Backbone
from llasa_jax.config import CodecConfig
from llasa_jax.parallel.mesh import by_rows


class SpectralEncoder(nnx.Module):
    """Log-mel frames, those of a code stacked, through X-Codec2's backbone.

    All its work is at the code rate, where X-Codec2's own time-domain encoder works at the sample
    rate: this one trains on a CPU.
    """

    def __init__(self, config: CodecConfig, *, rngs: nnx.Rngs):
        self.rate, self.hop, self.bins = config.sample_rate, config.hop, config.spectral.mel_bins
        self.frames = config.spectral.frames
        self.dtype = config.compute_dtype
        transformer = config.spectral.transformer
        dim = transformer.dim
        self.embed = nn.Conv1d(self.frames * self.bins, dim, 3, (None, "embed"), rngs=rngs)
        groups, scan = config.norm_groups, config.scan_layers
        self.backbone = Backbone(transformer, groups, scan, rngs=rngs)

    def __call__(self, wave: jax.Array, mask: jax.Array) -> jax.Array:
        """wave [B, T * hop], mask [B, T] -> features [B, T, D]."""
        # Zeros at both ends and past an item's: its last frame sees the same alone and padded.
        wave = jnp.where(jnp.repeat(mask, self.hop, 1) > 0, wave, 0)
        edged = jnp.pad(wave, ((0, 0), (self.hop, self.hop)))
        step, (batch, time) = self.hop // self.frames, mask.shape
        shape = dict(window=4 * step, hop=step, bins=self.bins)
        mel = by_rows(partial(log_mel, rate=self.rate, **shape), edged)
        mel = mel[:, self.frames : (1 + time) * self.frames].reshape(batch, time, -1)
        mel = (mel + 5.0) / 4.0
        return self.backbone(self.embed((mel * mask[..., None]).astype(self.dtype)), mask)
