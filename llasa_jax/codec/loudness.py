"""How different two waves sound: the disturbances of PESQ's perceptual model, differentiable."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np

from llasa_jax.audio.spectral import stft
from llasa_jax.parallel.mesh import by_rows

BANDS = 49
LEVEL = 10**8.4  # power of speech in the telephone band, to that of the threshold at 1 kHz
SPEECH = 1e4  # audible power of a frame that is not a pause


@cache
def _bark_bands(rate: int, window: int) -> tuple[np.ndarray, ...]:
    """Filters [bins, bands] of a power spectrum; of each band the threshold of hearing in power
    (Terhardt 1979), Zwicker's exponent and the width in Bark."""
    hertz = np.arange(1, window // 2 + 1) * rate / window
    bark = 6 * np.arcsinh(hertz / 600)
    place = np.minimum(bark / bark[-1] * BANDS, BANDS - 1).astype(int)
    # The lowest bands are narrower than a bin: some have none.
    band = np.unique(place, return_inverse=True)[1]
    filters = np.pad(np.eye(band.max() + 1)[band], ((1, 0), (0, 0)))
    centre = filters[1:].T @ hertz / filters.sum(0)
    width = filters[1:].T @ np.diff(bark, prepend=0)
    khz = centre / 1000
    decibel = 3.64 * khz**-0.8 - 6.5 * np.exp(-0.6 * (khz - 3.3) ** 2) + 1e-3 * khz**4
    threshold = 10 ** (np.minimum(decibel, 75) / 10)
    exponent = 0.23 * np.clip(6 / (6 * np.arcsinh(centre / 600) + 2), 1, 2) ** 0.15
    return tuple(x.astype(np.float32) for x in (filters, threshold, exponent, width))


def loudness_loss(wave: jax.Array, target: jax.Array, rate: int) -> jax.Array:
    """Differences of loudness over Bark bands; those that add sound count more.

    After ITU-T P.862 (PESQ), made differentiable as Martín-Doñas et al. 2018 do: power in Bark
    bands; the mean spectrum and each frame's gain compensated; loudness after Zwicker; no
    difference heard below a quarter of the quieter loudness; asymmetry by the ratio of powers;
    both disturbances in PESQ's proportion, averaged over frames. Waves are not aligned.

    Args:
        wave, target: float32 [B, samples].
    """
    window = round(0.032 * rate)
    filters, threshold, exponent, width = _bark_bands(rate, window)
    spectrum = partial(stft, window=window, hop=window // 2)
    spectra = (by_rows(spectrum, x) for x in (wave, target))
    power = [s.real**2 + s.imag**2 for s in spectra]
    hertz = np.fft.rfftfreq(window, 1 / rate)
    telephone = (hertz > 300) & (hertz < 3400)
    energy = jnp.mean(jnp.sum(power[1] * telephone, -1), -1)
    quietest = 1e-5 * 3 / 16 * window**2  # of a wave at -50 dB of full scale
    scale = (LEVEL / jnp.maximum(energy, quietest))[:, None, None]
    ours, theirs = (p * scale @ filters for p in power)

    def audible(p: jax.Array, factor: float) -> jax.Array:
        return jnp.where(p > factor * threshold, p, 0.0)

    total = audible(theirs, 100).sum(-1)
    speech = (total > SPEECH)[..., None]
    mean_ours, mean_theirs = (
        (audible(p, 100) * speech).mean(1, keepdims=True) + 1000 for p in (ours, theirs)
    )
    theirs = theirs * jnp.clip(mean_ours / mean_theirs, 0.01, 100)
    gain = (audible(theirs, 1).sum(-1) + 5e3) / (audible(ours, 1).sum(-1) + 5e3)
    ours = ours * jnp.clip(gain, 3e-4, 5)[..., None]

    def loudness(p: jax.Array) -> jax.Array:
        over = 0.5 + 0.5 * jnp.maximum(p / threshold, 1.0)
        return 0.187 * (2 * threshold) ** exponent * (over**exponent - 1)

    loud, aim = loudness(ours), loudness(theirs)
    heard = jnp.maximum(jnp.abs(loud - aim) - 0.25 * jnp.minimum(loud, aim), 0.0)
    ratio = ((ours + 50) / (theirs + 50)) ** 1.2
    added = jnp.where(ratio > 1, jnp.minimum(ratio, 12.0), 0.0)
    total_width = width.sum()
    spread = jnp.sum(jnp.square(heard * width), -1) / total_width
    symmetric = total_width * (jnp.sqrt(spread + 1e-4) - 1e-2)
    asymmetric = jnp.sum(heard * added * width, -1)
    pauses = ((total + 1e5) / 1e7) ** -0.04  # weigh a little more
    return jnp.mean(pauses * (0.1 * symmetric + 0.0309 * asymmetric))
