"""The codec: waves to codes, codes to waves, and padded batches of either."""

import jax
import jax.numpy as jnp
from flax import nnx

from llasa_jax import nn
from llasa_jax.codec.acoustic import ConvEncoder
from llasa_jax.codec.decoder import Decoder
from llasa_jax.codec.encoder import SpectralEncoder
from llasa_jax.codec.quantizer import Quantizer
from llasa_jax.codec.semantic import SemanticBranch
from llasa_jax.config import CodecConfig


class Codec(nnx.Module):
    """One code of `prod(levels)` every `hop` samples; wave [B, T * hop], codes [B, T].

    `mask` [B, T] is 1 on an item's frames, which come first; padding changes nothing in them. A
    semantic branch without `edge` (NeuCodec) has nothing for an item's last frame: the code there
    means nothing (`codec.lengths`).
    """

    def __init__(self, config: CodecConfig, *, rngs: nnx.Rngs):
        acoustic = SpectralEncoder if config.conv is None else ConvEncoder
        dim, self.dtype = config.fused_dim, config.compute_dtype
        self.encoder = acoustic(config, rngs=rngs)
        if config.semantic is None:
            self.semantic = self.fc_prior = None
        else:
            self.semantic = SemanticBranch(
                config.semantic,
                config.sample_rate,
                config.hop,
                scan=config.scan_layers,
                dtype=config.compute_dtype,
                rngs=rngs,
            )
            self.fc_prior = nn.Linear(dim, dim, ("embed", "mlp"), rngs=rngs)
        self.quantizer = Quantizer(dim, config.levels, rngs=rngs)
        self.fc_post = nn.Linear(dim, config.decoder.dim, (None, "embed"), rngs=rngs)
        self.decoder = Decoder(config, rngs=rngs)

    def semantic_hidden(self, wave: jax.Array, mask: jax.Array) -> jax.Array:
        """The semantic branch's frozen features [B, T, D], without a gradient."""
        return self.semantic.hidden(wave, mask)

    def latents(
        self, wave: jax.Array, mask: jax.Array, hidden: jax.Array | None = None
    ) -> jax.Array:
        """What the FSQ rounds, float32 [B, T, dims], of wave [B, T * hop].

        Args:
            hidden: `semantic_hidden` of the wave, where it is at hand.
        """
        x = self.encoder(wave, mask)
        if self.semantic is not None:
            hidden = self.semantic_hidden(wave, mask) if hidden is None else hidden
            semantic = self.semantic.adapt(hidden.astype(x.dtype), mask)
            x = self.fc_prior(jnp.concatenate([semantic, x], -1))
        return self.quantizer.latents(x)

    def encode(self, wave: jax.Array, mask: jax.Array) -> jax.Array:
        """Codes int32 [B, T] of wave [B, T * hop]; frames where mask [B, T] is 0 mean nothing."""
        return self.quantizer.codes(self.latents(wave, mask))

    def features(self, latents: jax.Array) -> jax.Array:
        """Quantised features float32 [B, T, fused] of latents, differentiable."""
        return self.quantizer.features(latents)

    def code_features(self, codes: jax.Array) -> jax.Array:
        """Quantised features float32 [B, T, fused] of codes [B, T]."""
        return self.quantizer.code_features(codes)

    def synthesise(self, features: jax.Array, mask: jax.Array) -> jax.Array:
        """Wave float32 [B, T * output_hop] of quantised features [B, T, fused]."""
        return self.decoder(self.fc_post(features.astype(self.dtype)), mask)

    def decode(self, codes: jax.Array, mask: jax.Array) -> jax.Array:
        """Wave float32 [B, T * output_hop] of codes [B, T]."""
        return self.synthesise(self.code_features(codes), mask)

    def decode_window(
        self, codes: jax.Array, mask: jax.Array, span: nn.Span, past: dict
    ) -> tuple[jax.Array, dict]:
        """`decode` of a window of a stream, and the past for the next (first `Decoder.memory`)."""
        x = self.fc_post(self.code_features(codes).astype(self.dtype))
        return self.decoder.stream(x, mask, span, past)

    def rebuild(self, latents: jax.Array, mask: jax.Array) -> jax.Array:
        """Wave of latents, through the quantiser, differentiable."""
        return self.synthesise(self.features(latents), mask)
