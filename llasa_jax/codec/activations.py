"""The alias-free SnakeBeta of BigVGAN and X-Codec2, as shifted multiply-adds.

SnakeBeta makes harmonics above the Nyquist frequency. It is therefore applied at twice the rate:
upsampled by 2, bent, downsampled by 2, both with one Kaiser-windowed sinc of 12 taps. Here the
upsampled signal is never interleaved: its even and its odd samples are two arrays, each a FIR of 6
taps of the input, and the output is the sum of a FIR of 6 taps of each. XLA makes one loop over
memory of that; the depthwise convolutions that it replaces are many times slower.
"""

from functools import cache, partial
from math import pi

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from llasa_jax import nn

REACH = 6  # samples an output may look back and ahead


def _kaiser_sinc() -> np.ndarray:
    """The 12 taps: cutoff a quarter of the doubled rate, transition 0.3 of it, sum 1."""
    attenuation = 2.285 * 5 * pi * 4 * 0.3 + 7.95
    window = np.kaiser(12, 0.1102 * (attenuation - 8.7))
    taps = window * np.sinc(0.5 * (np.arange(-6, 6) + 0.5))
    return taps / taps.sum()


TAPS = _kaiser_sinc()
# sin(pi t)^2 / t^2 in powers of t^2, for |t| <= 1/2, within 1e-7.
SINE = (
    np.polynomial.Chebyshev.interpolate(lambda q: (pi * np.sinc(np.sqrt(q))) ** 2, 5, [0, 0.25])
    .convert(kind=np.polynomial.Polynomial)
    .coef
)


def squared_sine(turns: jax.Array) -> jax.Array:
    """sin(pi * turns)^2 in plain arithmetic, which vectorises where a sine does not."""
    q = jnp.square(turns - jnp.round(turns))
    y = SINE[-1]
    for coefficient in SINE[-2::-1]:
        y = y * q + coefficient
    return y * q


def upsample(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """x [B, n + 6, C] -> even and odd samples [B, n, C] of the doubled rate, at x's 3 to n + 3."""
    return _fir(2 * TAPS[::2], x, 0), _fir(2 * TAPS[1::2], x, 1)


def downsample(even: jax.Array, odd: jax.Array) -> jax.Array:
    """Even and odd samples [B, n + 6, C] -> [B, n, C], at their 3 to n + 3."""
    return _fir(TAPS[1::2], even, 1) + _fir(TAPS[::2], odd, 0)


def _fir(taps: np.ndarray, x: jax.Array, start: int) -> jax.Array:
    size = x.shape[1] - 6
    shifted = (x[:, start + i : start + i + size] for i in range(6))
    return sum(np.float32(tap) * piece for tap, piece in zip(taps, shifted, strict=True))


@cache
def _held_matrices(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Up- and downsampling of `size` samples of which only the first count, for every such count.

    Returns:
        [size + 1, 2 size, size] and [size + 1, size, 2 size]: before the first sample its value is
        held, after the last that counts its. Outputs past that are zero.
    """
    up, down = np.zeros((size + 1, 2 * size, size)), np.zeros((size + 1, size, 2 * size))
    for count in range(1, size + 1):
        for t in range(count):
            for i, tap in enumerate(TAPS):
                at = np.clip(t - 3 + (i + 1) // 2, 0, count - 1)
                up[count, 2 * t + i % 2, at] += 2 * tap
                down[count, t, np.clip(2 * t - 5 + i, 0, 2 * count - 1)] += tap
    return np.float32(up), np.float32(down)


class SnakeBeta(nnx.Module):
    """x + sin(exp(alpha) x)^2 / (exp(beta) + 1e-9), alias-free; alpha and beta a channel each.

    At both ends of an item its first and last value are held, as PyTorch's replicating padding
    does. Past its end the output is zero, as the convolution that follows wants it.
    """

    def __init__(self, size: int, *, rngs: nnx.Rngs):
        self.alpha = nn.param(rngs, (size,), (None,), nn.zeros)
        self.beta = nn.param(rngs, (size,), (None,), nn.zeros)

    def __call__(self, x: jax.Array, lengths: jax.Array) -> jax.Array:
        """x [B, n, C], of which `lengths` [B] samples count -> [B, n, C], in the dtype of x."""
        size = x.shape[1]
        if size <= 2 * REACH:
            return self._held(x, lengths)
        # Away from an item's ends nothing is held, and the long loops need no conditions. The
        # outputs near them are computed once more, from a few samples, and written over.
        even, odd = upsample(x.astype(jnp.float32))
        inner = downsample(self._bend(even), self._bend(odd)).astype(x.dtype)
        y = jnp.pad(inner, ((0, 0), (REACH, REACH), (0, 0)))
        y = jnp.where((jnp.arange(size) < lengths[:, None])[..., None], y, 0)
        few = jnp.minimum(lengths, 2 * REACH)
        cut = jax.vmap(lambda row, i: jax.lax.dynamic_slice_in_dim(row, i, 2 * REACH))
        # Both ends of an item side by side: one after the other, they would change devices.
        ends = jnp.stack([x[:, : 2 * REACH], cut(x, lengths - few)], 1)
        ends = self._held(ends.reshape(-1, *ends.shape[2:]), jnp.repeat(few, 2))
        first, last = jnp.moveaxis(ends.reshape(-1, 2, *ends.shape[1:]), 1, 0)
        put = jax.vmap(lambda row, new, i: jax.lax.dynamic_update_slice_in_dim(row, new, i, 0))
        y = jax.lax.dynamic_update_slice_in_dim(y, first[:, :REACH], 0, 1)
        return put(y, last[:, REACH:], lengths - few + REACH)

    def _bend(self, x: jax.Array) -> jax.Array:
        """SnakeBeta itself, of a float32 array."""
        turns = jnp.exp(self.alpha[...].astype(jnp.float32)) / pi
        size = 1 / (jnp.exp(self.beta[...].astype(jnp.float32)) + 1e-9)
        return x + size * squared_sine(turns * x)

    def _held(self, x: jax.Array, lengths: jax.Array) -> jax.Array:
        """The same with the ends held, for few samples: up- and downsampling as matrices."""
        apply = partial(jnp.einsum, "bij,bjc->bic", precision=jax.lax.Precision.HIGHEST)
        up, down = (jnp.asarray(table)[lengths] for table in _held_matrices(x.shape[1]))
        return apply(down, self._bend(apply(up, x.astype(jnp.float32)))).astype(x.dtype)
