"""X-Codec2's acoustic encoder: strided convolutions on the wave itself (after BigCodec)."""

from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from llasa_jax import nn
from llasa_jax.codec.activations import SnakeBeta
from llasa_jax.config import CodecConfig
from llasa_jax.parallel.mesh import constrain

Conv1d = partial(nn.Conv1d, weight_norm=True)


class ResidualUnit(nnx.Module):
    """x + conv2(snake2(conv1(snake1(x)))), conv1 of width 7 and dilated; x [B, n, C]."""

    def __init__(self, size: int, dilation: int, *, rngs: nnx.Rngs):
        self.snake1 = SnakeBeta(size, rngs=rngs)
        self.conv1 = Conv1d(size, size, 7, ("embed", "mlp"), dilation=dilation, rngs=rngs)
        self.snake2 = SnakeBeta(size, rngs=rngs)
        self.conv2 = Conv1d(size, size, 1, ("embed", "mlp"), rngs=rngs)

    def __call__(self, x: jax.Array, lengths: jax.Array) -> jax.Array:
        h = self.conv1(self.snake1(x, lengths))
        return x + self.conv2(self.snake2(h, lengths))


class EncoderBlock(nnx.Module):
    """Three residual units, then twice the channels at 1 / stride of the rate.

    x [B, n, C] -> [B, n / stride, 2 C].
    """

    def __init__(self, size: int, stride: int, *, rngs: nnx.Rngs):
        self.stride, edge = stride, -(-stride // 2)
        self.unit1 = ResidualUnit(size, 1, rngs=rngs)
        self.unit2 = ResidualUnit(size, 3, rngs=rngs)
        self.unit3 = ResidualUnit(size, 9, rngs=rngs)
        self.snake = SnakeBeta(size, rngs=rngs)
        shape = dict(stride=stride, padding=(edge, edge))
        self.conv = Conv1d(size, 2 * size, 2 * stride, ("embed", "mlp"), **shape, rngs=rngs)

    def __call__(self, x: jax.Array, lengths: jax.Array) -> jax.Array:
        for unit in (self.unit1, self.unit2, self.unit3):
            x = unit(x, lengths)
        return self.conv(self.snake(x, lengths))


class ConvEncoder(nnx.Module):
    """Wave [B, T * hop] -> features [B, T, D]: no norms, no attention, symmetric padding.

    Parameters: `conv_in`, `blocks` (`unit1`, `unit2`, `unit3`: each `snake1`, `conv1`, `snake2`,
    `conv2`; `snake`; `conv`), `snake`, `conv_out`. Every convolution is weight-normed: `kernel`
    [K, in, out] is PyTorch's weight_v transposed, `gain` [out] its weight_g, and `bias` [out]. A
    snake has `alpha` and `beta` [C], in log scale.

    Padding changes nothing: before a convolution what lies past an item's end is zero, before an
    alias-free filter it is the item's last value, as if the item were alone.
    """

    def __init__(self, config: CodecConfig, *, rngs: nnx.Rngs):
        size, self.hop, self.dtype = config.conv.channels, config.hop, config.compute_dtype
        self.conv_in = Conv1d(1, size, 7, (None, "embed"), rngs=rngs)
        blocks = []
        for stride in config.conv.strides:
            blocks.append(EncoderBlock(size, stride, rngs=rngs))
            size *= 2
        self.blocks = nnx.List(blocks)
        self.snake = SnakeBeta(size, rngs=rngs)
        self.conv_out = Conv1d(size, config.conv.dim, 3, ("mlp", "embed"), rngs=rngs)

    def __call__(self, wave: jax.Array, mask: jax.Array) -> jax.Array:
        """wave [B, T * hop], mask [B, T], 1 on an item's frames, which come first."""
        lengths = jnp.sum(mask > 0, 1) * self.hop
        valid = jnp.arange(wave.shape[1]) < lengths[:, None]
        x = self.conv_in(jnp.where(valid, wave, 0).astype(self.dtype)[..., None])
        for block in self.blocks:
            x = constrain(block(x, lengths), "batch", None, None)
            lengths = lengths // block.stride
        return self.conv_out(self.snake(x, lengths))
