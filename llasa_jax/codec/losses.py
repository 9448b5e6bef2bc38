"""What the codec is trained to make small, of X-Codec2's recipe."""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp

from llasa_jax.audio.spectral import log_mel
from llasa_jax.codec.discriminators import Features
from llasa_jax.parallel.mesh import by_rows

# (window, mel bins) of the seven resolutions; the hop is a quarter of the window.
MEL_RESOLUTIONS = ((32, 5), (64, 10), (128, 20), (256, 40), (512, 80), (1024, 160), (2048, 320))


def mel_loss(wave: jax.Array, target: jax.Array, rate: int, floor: float = 1e-5) -> jax.Array:
    """Sum over seven resolutions of the mean L1 distance of log10 mel magnitudes.

    Args:
        wave, target: float32 [B, samples].
        floor: magnitudes below it count as it. X-Codec2 has 1e-5; a short training does better not
            to look 100 dB below the loudest sound.

    Descript audio codec's multi-scale mel loss (Kumar et al. 2023), as X-Codec2 trains with it.
    """
    total = jnp.zeros(())
    for window, bins in MEL_RESOLUTIONS:
        mel = partial(log_mel, rate=rate, window=window, hop=window // 4, bins=bins, floor=floor)
        apart = by_rows(lambda x, y, mel=mel: jnp.abs(mel(x) - mel(y)), wave, target)
        total += jnp.mean(apart) / jnp.log(10.0)
    return total


SPREAD = 0.8  # standard deviation at which four levels are used about equally


def spread_loss(latents: jax.Array, active: jax.Array) -> jax.Array:
    """How far the FSQ's inputs are from independent, centred and well spread dimensions.

    FSQ alone lets its dimensions copy each other: with a few minutes of training, 16 bits then
    carry about 10. This penalty (squared correlations, squared means, deviation from `SPREAD`; as
    VICReg's, Bardes et al. 2022) brings that to about 13.

    Args:
        latents: [B, T, dims], before the bound.
        active: [B, T], 1 on frames that hold sound; digital silence would only drag the means.
    """
    x, weight = latents.reshape(-1, latents.shape[-1]), active.reshape(-1, 1)
    count = jnp.maximum(weight.sum(), 1.0)
    mean = (x * weight).sum(0) / count
    centred = (x - mean) * weight
    covariance = centred.T @ centred / count
    deviation = jnp.sqrt(jnp.diag(covariance) + 1e-5)
    correlation = covariance / jnp.outer(deviation, deviation)
    copies = jnp.sum(correlation**2) - jnp.sum(jnp.diag(correlation) ** 2)
    return (
        copies / x.shape[-1] + jnp.mean(jnp.square(mean)) + jnp.mean(jnp.square(deviation - SPREAD))
    )


def judged_loss(judged: Sequence[Features], target: float) -> jax.Array:
    """Sum over discriminators of the mean squared distance of their judgements from `target`.

    Least squares (Mao et al. 2017): discriminators bring recorded waves to 1 and rebuilt ones to 0,
    the codec brings rebuilt ones to 1.
    """
    return sum(jnp.mean(jnp.square(one[-1].astype(jnp.float32) - target)) for one in judged)


def feature_loss(rebuilt: Sequence[Features], recorded: Sequence[Features]) -> jax.Array:
    """Sum over discriminators and their layers, judgements left out, of the mean L1 distance.

    The features of the recorded wave are constants (Kumar et al. 2019, as HiFi-GAN has it, without
    its factor 2).
    """
    total = jnp.zeros(())
    for ours, theirs in zip(rebuilt, recorded, strict=True):
        for x, y in zip(ours[:-1], theirs[:-1], strict=True):
            y = jax.lax.stop_gradient(y).astype(jnp.float32)
            total += jnp.mean(jnp.abs(x.astype(jnp.float32) - y))
    return total


def masked_mse(x: jax.Array, target: jax.Array, mask: jax.Array) -> jax.Array:
    """Mean squared distance of features [B, T, D] over the frames where mask [B, T] is 1."""
    square = jnp.square(x.astype(jnp.float32) - target.astype(jnp.float32))
    count = jnp.maximum(mask.sum(), 1.0) * x.shape[-1]
    return jnp.sum(square * mask[..., None]) / count
