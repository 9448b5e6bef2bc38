"""Kaldi's log mel filter banks as JAX functions: what w2v-BERT listens to."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np

from llasa_jax.audio.spectral import frame

PREEMPHASIS = 0.97
LOWEST = 20.0  # Hz
FLOOR = 1.192092955078125e-07  # float32's epsilon
EPS = 1e-7


def frame_sizes(rate: int) -> tuple[int, int]:
    """Samples of a frame (25 ms) and between frames (10 ms)."""
    return rate // 40, rate // 100


@cache
def _spectrum_of_frame(window: int, size: int) -> np.ndarray:
    """The linear map from samples to spectrum, float64 [window, 2 * (size // 2 + 1)]: mean removed,
    pre-emphasis, Povey's window, DFT of `size`; real parts, then imaginary parts."""
    centre = np.eye(window) - 1.0 / window
    emphasis = np.eye(window) - PREEMPHASIS * np.eye(window, k=1)
    povey = np.hanning(window) ** 0.85
    dft = np.fft.rfft(np.diag(povey), size)
    return centre @ emphasis @ np.concatenate([dft.real, dft.imag], 1)


@cache
def _mel_filters(rate: int, size: int, bins: int) -> np.ndarray:
    """Triangles on Kaldi's mel scale, not normalised: float32 [size // 2 + 1, bins]."""
    mel = lambda hertz: 1127.0 * np.log1p(hertz / 700.0)  # noqa: E731
    edges = np.linspace(mel(LOWEST), mel(rate / 2), bins + 2)
    low, centre, high = edges[:-2], edges[1:-1], edges[2:]
    at = mel(np.arange(size // 2 + 1) * rate / size)[:, None]
    rise, fall = (at - low) / (centre - low), (high - at) / (high - centre)
    return np.maximum(np.minimum(rise, fall), 0.0).astype(np.float32)


def fbank(wave: jax.Array, *, rate: int, bins: int) -> jax.Array:
    """Natural log of mel energies: [..., samples] in -1..1 -> [..., frames, bins].

    torchaudio.compliance.kaldi.fbank(wave * 2**15, num_mel_bins=bins, window_type="povey",
    dither=0, low_freq=20) with its defaults: 25 ms frames every 10 ms, the incomplete last ones
    dropped, mean removed, pre-emphasis 0.97, power spectrum, floor of float32's epsilon.
    """
    window, shift = frame_sizes(rate)
    size = 1 << (window - 1).bit_length()
    frames = frame(wave * 2.0**15, window, shift)
    # Bands may lie 140 dB under others, where float32 has no digits left. TPUs have no float64 FFT.
    with jax.enable_x64(True):
        spectrum = jnp.matmul(frames.astype(jnp.float64), _spectrum_of_frame(window, size))
        real, imaginary = jnp.split(spectrum, 2, -1)
        power = (jnp.square(real) + jnp.square(imaginary)).astype(jnp.float32)
    mel = jnp.matmul(power, _mel_filters(rate, size, bins), precision=jax.lax.Precision.HIGHEST)
    return jnp.log(jnp.maximum(mel, FLOOR))


def stacked_fbank(
    wave: jax.Array, mask: jax.Array, *, rate: int, bins: int, edge: int
) -> tuple[jax.Array, jax.Array]:
    """Filter banks as w2v-BERT takes them: normalised over each item's frames, two side by side.

    Every bin has mean 0 and variance 1 (of count - 1, plus 1e-7) over an item's own frames, as
    transformers' SeamlessM4TFeatureExtractor has it.

    Args:
        wave: [B, T * hop], hop = 20 ms; what lies past the mask is ignored.
        mask: [B, T], 1 on the item's hops.
        edge: zeros on both sides of each item, half a hop or none; with none, its last stacked
            frame is missing.

    Returns:
        features [B, T, 2 * bins], zero where missing, and their mask [B, T].
    """
    (batch, time), hop = mask.shape, wave.shape[1] // mask.shape[1]
    window, shift = frame_sizes(rate)
    heard = jnp.where(jnp.repeat(mask, hop, 1) > 0, wave, 0.0)
    # Two frames a hop for every item; those that reach past its edge do not count.
    frames = fbank(jnp.pad(heard, ((0, 0), (edge, window - shift - edge))), rate=rate, bins=bins)
    samples = mask.sum(1, keepdims=True).astype(jnp.int32) * hop + 2 * edge
    count = jnp.maximum((samples - window) // shift + 1, 0)
    weight = (jnp.arange(2 * time) < count).astype(jnp.float32)[..., None]
    count = count[..., None].astype(jnp.float32)
    centred = frames - (frames * weight).sum(1, keepdims=True) / jnp.maximum(count, 1.0)
    squares = (jnp.square(centred) * weight).sum(1, keepdims=True)
    scaled = centred * jax.lax.rsqrt(squares / jnp.maximum(count - 1.0, 1.0) + EPS)
    pairs, weights = scaled.reshape(batch, time, -1), weight.reshape(batch, time, 2)
    valid = weights.min(-1)
    return jnp.where(valid[..., None] > 0, pairs, 0.0), valid
