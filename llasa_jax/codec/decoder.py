"""Features to waves: X-Codec2's transformer backbone and ISTFT head."""

import jax
import jax.numpy as jnp
from flax import nnx

from llasa_jax import nn
from llasa_jax.audio.spectral import istft_same
from llasa_jax.codec.blocks import Backbone, ResnetBlock
from llasa_jax.config import CodecConfig
from llasa_jax.parallel.mesh import by_rows

ISTFT_REACH = 2  # frames to each side of one whose windows of 4 frames' steps overlap it


class Decoder(nnx.Module):
    """Features [B, T, D] -> wave [B, T * output_hop].

    The head gives `istft_frames` frames a code, log magnitude and phase of each, for an ISTFT with
    windows of 4 steps. A causal decoder looks ahead by two of these only: that is its latency.
    """

    def __init__(self, config: CodecConfig, *, rngs: nnx.Rngs):
        dim, self.dtype, self.frames = config.decoder.dim, config.compute_dtype, config.istft_frames
        self.step = config.output_hop // self.frames  # samples a frame
        self.window = config.window if config.causal else None
        padding = "causal" if config.causal else "same"
        self.embed = nn.Conv1d(dim, dim, 7, (None, "embed"), padding=padding, rngs=rngs)
        groups, scan = config.norm_groups, config.scan_layers
        self.backbone = Backbone(config.decoder, groups, scan, self.window, rngs=rngs)
        bins = 2 * self.step + 1
        self.head = nn.Linear(dim, self.frames * 2 * bins, ("embed", None), rngs=rngs)

    @property
    def reach(self) -> tuple[int, int]:
        """Codes before and after a hop that the convolutions and the ISTFT see for it."""
        resnets, overlap = 4 * ResnetBlock.REACH, -(-ISTFT_REACH // self.frames)
        if self.window is None:
            return 3 + resnets + overlap, 3 + resnets + overlap
        return 6 + 2 * resnets + overlap, overlap

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
        h = self.head(h.astype(jnp.float32)).reshape(h.shape[0], -1, 2 * (2 * self.step + 1))
        log_magnitude, phase = jnp.split(h, 2, -1)
        # The clip at 100 is of the exponential, before it can overflow.
        size = jnp.exp(jnp.minimum(log_magnitude, jnp.log(100.0)))
        spectrum = jax.lax.complex(size * jnp.cos(phase), size * jnp.sin(phase))
        frames = jnp.repeat(mask, self.frames, 1)
        return by_rows(lambda x, real: istft_same(x, self.step, real), spectrum, frames)
