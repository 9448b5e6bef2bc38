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
        self.quantizer = Quantizer(config.fused_dim, config.levels, rngs=rngs)
        self.fc_post = nn.Linear(config.fused_dim, config.decoder.dim, (None, "embed"), rngs=rngs)
        self.decoder = Decoder(config, rngs=rngs)

    def latents(self, wave: jax.Array, mask: jax.Array) -> jax.Array:
        """What the FSQ rounds, float32 [B, T, dims], of wave [B, T * hop]."""
        return self.quantizer.latents(self.encoder(wave, mask))

    def encode(self, wave: jax.Array, mask: jax.Array) -> jax.Array:
        """Codes int32 [B, T] of wave [B, T * hop]; frames where mask [B, T] is 0 mean nothing."""
        return self.quantizer.codes(self.latents(wave, mask))

    def decode(self, codes: jax.Array, mask: jax.Array) -> jax.Array:
        """Wave float32 [B, T * hop] of codes [B, T]."""
        return self.decoder(self.fc_post(self.quantizer.code_features(codes)), mask)

    def rebuild(self, latents: jax.Array, mask: jax.Array) -> jax.Array:
        """Wave of latents, through the quantiser, differentiable."""
        return self.decoder(self.fc_post(self.quantizer.features(latents)), mask)
