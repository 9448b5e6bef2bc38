"""Features to waves: X-Codec2's transformer backbone and ISTFT head."""

import jax
import jax.numpy as jnp
from flax import nnx

from llasa_jax import nn
from llasa_jax.audio.spectral import istft_same
from llasa_jax.codec.blocks import Backbone
from llasa_jax.config import CodecConfig


class Decoder(nnx.Module):
    """Features [B, T, D] -> wave [B, T * hop]; non-causal.

    The head gives log magnitude and phase of 2 * hop + 1 bins a frame, for an ISTFT of 4 hops.
    """

    def __init__(self, config: CodecConfig, *, rngs: nnx.Rngs):
        dim, self.hop = config.decoder.dim, config.hop
        self.embed = nn.Conv1d(dim, dim, 7, (None, "embed"), rngs=rngs)
        groups, scan = config.norm_groups, config.scan_layers
        self.backbone = Backbone(config.decoder, groups, scan, rngs=rngs)
        self.head = nn.Linear(dim, 4 * config.hop + 2, ("embed", None), rngs=rngs)

    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        h = self.backbone(self.embed(x * mask[..., None]), mask)
        log_magnitude, phase = jnp.split(self.head(h).astype(jnp.float32), 2, -1)
        # The clip at 100 is of the exponential, before it can overflow.
        size = jnp.exp(jnp.minimum(log_magnitude, jnp.log(100.0)))
        spectrum = jax.lax.complex(size * jnp.cos(phase), size * jnp.sin(phase))
        return istft_same(spectrum, self.hop, mask)
