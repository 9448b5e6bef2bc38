"""The codec: waves to codes, codes to waves, and padded batches of either."""

import jax
from flax import nnx

from llasa_jax import nn
from llasa_jax.codec.decoder import Decoder
from llasa_jax.codec.encoder import SpectralEncoder
from llasa_jax.codec.quantizer import Quantizer
from llasa_jax.config import CodecConfig


class Codec(nnx.Module):
    """One code of `prod(levels)` every `hop` samples; wave [B, T * hop], codes [B, T]."""

    def __init__(self, config: CodecConfig, *, rngs: nnx.Rngs):
        self.encoder = SpectralEncoder(config, rngs=rngs)
        self.quantizer = Quantizer(config.encoder.dim, config.levels, rngs=rngs)
        self.fc_post = nn.Linear(config.encoder.dim, config.decoder.dim, (None, "embed"), rngs=rngs)
        self.decoder = Decoder(config, rngs=rngs)

    def encode(self, wave: jax.Array, mask: jax.Array) -> jax.Array:
        """Codes int32 [B, T] of wave [B, T * hop]; frames where mask [B, T] is 0 mean nothing."""
        return self.quantizer(self.encoder(wave, mask))[1]

    def decode(self, codes: jax.Array, mask: jax.Array) -> jax.Array:
        """Wave float32 [B, T * hop] of codes [B, T]."""
        return self.decoder(self.fc_post(self.quantizer.features(codes)), mask)

    def reconstruct(self, wave: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Wave through the quantiser and back, differentiable, with its codes."""
        features, codes = self.quantizer(self.encoder(wave, mask))
        return self.decoder(self.fc_post(features), mask), codes
