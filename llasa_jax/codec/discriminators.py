"""What tells recorded waves from rebuilt ones, as X-Codec2 trains against it.

Period discriminators (HiFi-GAN, Kong et al. 2020) look at every p-th sample, spectral ones at
magnitudes of STFTs of several sizes. A discriminator returns what every layer makes, after its
activation: the features that a rebuilt wave is to share with the recorded one, and last its
judgement of every place, 1 for recorded.
"""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from llasa_jax import nn
from llasa_jax.audio.spectral import stft
from llasa_jax.config import DiscriminatorConfig
from llasa_jax.parallel.mesh import by_rows, constrain

Features = list[jax.Array]


class Conv(nnx.Module):
    """Weight-normed convolution, channels last: x [B, *places, in] -> [B, *places', out].

    Starts as PyTorch's layers do: kernel and bias uniform within 1 / sqrt(fan-in), the gain such
    that the normed weights are the kernel.
    """

    def __init__(
        self,
        size_in: int,
        size_out: int,
        window: tuple[int, ...],
        padding: tuple[tuple[int, int], ...],
        stride: int = 1,
        *,
        rngs: nnx.Rngs,
    ):
        bound = (math.prod(window) * size_in) ** -0.5
        uniform = lambda key, shape, dtype: jax.random.uniform(key, shape, dtype, -bound, bound)  # noqa: E731
        axes = (*(None,) * len(window), None, "embed" if size_out > 1 else None)
        self.kernel = nn.param(rngs, (*window, size_in, size_out), axes, uniform)
        norm = lambda *_: self._norm()  # noqa: E731
        self.gain = nn.param(rngs, (size_out,), axes[-1:], norm)
        self.bias = nn.param(rngs, (size_out,), axes[-1:], uniform)
        self.padding, self.strides = padding, (stride,) * len(window)

    def _norm(self) -> jax.Array:
        kernel = self.kernel[...]
        return jnp.sqrt(jnp.sum(jnp.square(kernel), tuple(range(kernel.ndim - 1))))

    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.kernel[...] * (self.gain[...] / self._norm())
        layout = {1: ("NWC", "WIO", "NWC"), 2: ("NHWC", "HWIO", "NHWC")}[len(self.strides)]
        y = jax.lax.conv_general_dilated(
            x, kernel.astype(x.dtype), self.strides, self.padding, dimension_numbers=layout
        )
        return y + self.bias[...].astype(x.dtype)


class Layers(nnx.Module):
    """Convolutions with leaky ReLUs, and one channel out."""

    def __init__(self, convs: list[Conv], slope: float):
        self.convs, self.slope = nnx.List(convs), slope

    def __call__(self, x: jax.Array) -> Features:
        features = []
        for conv in self.convs[:-1]:
            x = jax.nn.leaky_relu(conv(x), self.slope)
            x = constrain(x, "batch", *(None,) * (x.ndim - 1))
            features.append(x)
        return [*features, self.convs[-1](x)]


class PeriodDiscriminator(nnx.Module):
    """Wave [B, samples] -> features [B * period, places, channels], of every period-th sample.

    Convolutions of width 5 and stride 3, the last without; the output's has width 2. They never mix
    the samples of one period, which are therefore rows of the batch.
    """

    def __init__(self, period: int, channels: tuple[int, ...], *, rngs: nnx.Rngs):
        convs, size = [], 1
        for i, out in enumerate(channels):
            stride = 3 if i + 1 < len(channels) else 1
            convs.append(Conv(size, out, (5,), ((2, 2),), stride, rngs=rngs))
            size = out
        convs.append(Conv(size, 1, (2,), ((1, 1),), rngs=rngs))
        self.period, self.judge = period, Layers(convs, 0.1)

    def __call__(self, wave: jax.Array, dtype: Any) -> Features:
        missing = -wave.shape[1] % self.period
        wave = jnp.pad(wave, ((0, 0), (0, missing)), mode="reflect")
        phases = wave.reshape(wave.shape[0], -1, self.period).swapaxes(1, 2)
        return self.judge(phases.reshape(-1, phases.shape[2], 1).astype(dtype))


class SpectralDiscriminator(nnx.Module):
    """Wave [B, samples] -> features [B, frames, bins, channels], of STFT magnitudes.

    5 x 5 convolutions of stride 2, the last of them and the output 3 x 3 without. The spectrum, of
    Hann windows with hops of half a window, is in float32.
    """

    def __init__(self, window: int, channels: tuple[int, ...], *, rngs: nnx.Rngs):
        convs, size = [], 1
        for out in channels[:-1]:
            convs.append(Conv(size, out, (5, 5), ((2, 2), (2, 2)), 2, rngs=rngs))
            size = out
        for out in (channels[-1], 1):
            convs.append(Conv(size, out, (3, 3), ((1, 1), (1, 1)), rngs=rngs))
            size = out
        self.window, self.judge = window, Layers(convs, 0.2)

    def __call__(self, wave: jax.Array, dtype: Any) -> Features:
        spectrum = by_rows(lambda x: stft(x, self.window, self.window // 2), wave)
        power = jnp.clip(jnp.square(spectrum.real) + jnp.square(spectrum.imag), 1e-7, 1e3)
        return self.judge(jnp.sqrt(power)[..., None].astype(dtype))


class Discriminators(nnx.Module):
    """Wave float32 [B, samples] -> features of every discriminator: periods, then windows.

    Args:
        dtype: what their convolutions compute in.
    """

    def __init__(self, config: DiscriminatorConfig, dtype: Any = jnp.float32, *, rngs: nnx.Rngs):
        period = partial(PeriodDiscriminator, channels=config.period_channels, rngs=rngs)
        window = partial(SpectralDiscriminator, channels=config.window_channels, rngs=rngs)
        self.periods = nnx.List([period(size) for size in config.periods])
        self.windows = nnx.List([window(size) for size in config.windows])
        self.dtype = dtype

    def __call__(self, wave: jax.Array) -> list[Features]:
        return [one(wave, self.dtype) for one in (*self.periods, *self.windows)]
