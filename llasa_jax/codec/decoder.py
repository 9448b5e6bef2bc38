"""Features to waves: X-Codec2's transformer backbone and ISTFT head."""

import jax
import jax.numpy as jnp
from flax import nnx

from llasa_jax import nn
from llasa_jax.audio.spectral import istft_same
from llasa_jax.codec.blocks import Backbone, ResnetBlock
from llasa_jax.config import CodecConfig
from llasa_jax.parallel.mesh import by_rows

ISTFT_REACH = 2  # frames to each side of a hop whose windows of 4 hops overlap it


class Decoder(nnx.Module):
    """Features [B, T, D] -> wave [B, T * output_hop].

    The head gives log magnitude and phase of 2 * output_hop + 1 bins a frame, for an ISTFT of 4
    hops. A causal decoder looks ahead by the ISTFT's two frames only: that is its latency.
    """

    def __init__(self, config: CodecConfig, *, rngs: nnx.Rngs):
        dim, self.hop, self.dtype = config.decoder.dim, config.output_hop, config.compute_dtype
        self.window = config.window if config.causal else None
        padding = "causal" if config.causal else "same"
        self.embed = nn.Conv1d(dim, dim, 7, (None, "embed"), padding=padding, rngs=rngs)
        groups, scan = config.norm_groups, config.scan_layers
        self.backbone = Backbone(config.decoder, groups, scan, self.window, rngs=rngs)
        self.head = nn.Linear(dim, 4 * self.hop + 2, ("embed", None), rngs=rngs)

    @property
    def reach(self) -> tuple[int, int]:
        """Frames before and after a hop that the convolutions and the ISTFT see for it."""
        resnets = 4 * ResnetBlock.REACH
        if self.window is None:
            return 3 + resnets + ISTFT_REACH, 3 + resnets + ISTFT_REACH
        return 6 + 2 * resnets + ISTFT_REACH, ISTFT_REACH

    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        return self._wave(self.backbone(self._embed(x, mask), mask), mask)

    def stream(
        self, x: jax.Array, mask: jax.Array, span: nn.Span, past: dict
    ) -> tuple[jax.Array, dict]:
        """Wave of a window of a stream, and the new past."""
        h, past = self.backbone(self._embed(x, mask), mask, span, past)
        return self._wave(h, mask), past

    def memory(self, batch: int, frames: int) -> dict:
        """The past that a stream begins with; attention remembers `frames` frames."""
        return self.backbone.memory(batch, frames, self.dtype)

    def _embed(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        return self.embed((x * mask[..., None]).astype(self.dtype))

    def _wave(self, h: jax.Array, mask: jax.Array) -> jax.Array:
        h = h.astype(jnp.float32)
        log_magnitude, phase = jnp.split(self.head(h), 2, -1)
        # The clip at 100 is of the exponential, before it can overflow.
        size = jnp.exp(jnp.minimum(log_magnitude, jnp.log(100.0)))
        spectrum = jax.lax.complex(size * jnp.cos(phase), size * jnp.sin(phase))
        return by_rows(lambda x, real: istft_same(x, self.hop, real), spectrum, mask)
