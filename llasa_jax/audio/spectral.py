"""Framing, STFT, ISTFT and mel spectra as JAX functions, in float32."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import librosa
import numpy as np


@cache
def _hann(window: int) -> np.ndarray:
    """Periodic Hann window [window], as torch.hann_window."""
    return np.hanning(window + 1)[:-1].astype(np.float32)


@cache
def mel_filters(rate: int, window: int, bins: int, fmin: float, fmax: float) -> np.ndarray:
    """Slaney-scale, Slaney-normalised mel filters [window // 2 + 1, bins]."""
    return librosa.filters.mel(sr=rate, n_fft=window, n_mels=bins, fmin=fmin, fmax=fmax).T


def frame(wave: jax.Array, window: int, hop: int) -> jax.Array:
    """Overlapping frames of the last axis: [..., samples] -> [..., frames, window].

    frames = (samples - window) // hop + 1; the incomplete last one is dropped.
    """
    count = max((wave.shape[-1] - window) // hop + 1, 0)
    # Slices of whole hops laid side by side are many times faster than a gather on CPUs.
    parts = -(-window // hop)
    used = (count + parts - 1) * hop
    edge = [(0, 0)] * (wave.ndim - 1) + [(0, max(used - wave.shape[-1], 0))]
    hops = jnp.pad(wave, edge)[..., :used].reshape(*wave.shape[:-1], count + parts - 1, hop)
    frames = jnp.concatenate([hops[..., i : i + count, :] for i in range(parts)], -1)
    return frames[..., :window]


def stft(wave: jax.Array, window: int, hop: int) -> jax.Array:
    """Centred STFT with reflected edges: [..., samples] -> complex64 [..., frames, bins].

    frames = samples // hop + 1, bins = window // 2 + 1; the transpose of
    torch.stft(n_fft=window, hop_length=hop, window=hann_window, center=True).
    """
    edge = [(0, 0)] * (wave.ndim - 1) + [(window // 2, window // 2)]
    wave = jnp.pad(wave, edge, mode="reflect")
    sizes = dict(window=window, hop=hop)
    return jax.lax.platform_dependent(
        wave, tpu=partial(_stft_by_products, **sizes), default=partial(_stft_by_fft, **sizes)
    )


def _stft_by_fft(wave: jax.Array, window: int, hop: int) -> jax.Array:
    return jnp.fft.rfft(frame(wave, window, hop) * _hann(window))


def _stft_by_products(wave: jax.Array, window: int, hop: int) -> jax.Array:
    """The same as one convolution over hops.

    A TPU has no FFT. Its compiler makes products of each, in six bfloat16 passes where three keep
    1e-5 of the largest bin, of frames laid out one by one, and takes three times as long.
    """
    bins, parts = window // 2 + 1, -(-window // hop)
    kernel = np.zeros((parts * hop, 2 * bins), np.float32)
    kernel[:window] = _fourier(window) * _hann(window)[:, None]
    count = max((wave.shape[-1] - window) // hop + 1, 0)
    used = (count + parts - 1) * hop
    wave = jnp.pad(wave, [(0, 0)] * (wave.ndim - 1) + [(0, max(used - wave.shape[-1], 0))])
    spectrum = jax.lax.conv_general_dilated(
        wave[..., :used].reshape(-1, count + parts - 1, hop),
        kernel.reshape(parts, hop, 2 * bins),
        window_strides=(1,),
        padding="VALID",
        dimension_numbers=("NWC", "WIO", "NWC"),
        precision=jax.lax.Precision.HIGH,
    ).reshape(*wave.shape[:-1], count, 2 * bins)
    return jax.lax.complex(spectrum[..., :bins], spectrum[..., bins:])


def _fourier(window: int) -> np.ndarray:
    """[window, 2 bins]: a frame's product with it is its spectrum, real parts, then imaginary."""
    turns = np.outer(np.arange(window), np.arange(window // 2 + 1)) % window / window
    return np.concatenate([np.cos(2 * np.pi * turns), -np.sin(2 * np.pi * turns)], 1)


def _irfft(spectrum: jax.Array, window: int) -> jax.Array:
    """Complex [..., window // 2 + 1] -> float32 [..., window], for an even window."""
    return jax.lax.platform_dependent(
        spectrum,
        tpu=partial(_irfft_by_products, window=window),
        default=lambda x: jnp.fft.irfft(x, window),
    )


def _irfft_by_products(spectrum: jax.Array, window: int) -> jax.Array:
    # All bins but the first and the last stand for their mirrored ones too.
    share = np.full(window // 2 + 1, 2 / window)
    share[[0, -1]] = 1 / window
    back = (_fourier(window) * np.tile(share, 2)).T.astype(np.float32)
    parts = jnp.concatenate([spectrum.real, spectrum.imag], -1)
    return jnp.matmul(parts, back, precision=jax.lax.Precision.HIGH)


def magnitude(spectrum: jax.Array) -> jax.Array:
    """|spectrum| with a gradient that stays finite at zero."""
    return jnp.sqrt(jnp.maximum(spectrum.real**2 + spectrum.imag**2, 1e-14))


def log_mel(
    wave: jax.Array,
    *,
    rate: int,
    window: int,
    hop: int,
    bins: int,
    fmin: float = 0.0,
    fmax: float | None = None,
    floor: float = 1e-5,
) -> jax.Array:
    """Natural log of the mel magnitudes: [..., samples] -> [..., samples // hop + 1, bins].

    Magnitude (power 1) mel as torchaudio's MelSpectrogram(power=1, norm="slaney",
    mel_scale="slaney"), clamped at `floor` before the log.
    """
    filters = mel_filters(rate, window, bins, fmin, fmax or rate / 2)
    return jnp.log(jnp.maximum(magnitude(stft(wave, window, hop)) @ filters, floor))


def mel_features(
    waves: jax.Array, lengths: jax.Array, *, rate: int, bins: int, each_bin: bool = True
) -> tuple[jax.Array, jax.Array]:
    """Log-mel frames with mean 0 and variance 1 over the valid frames of each utterance.

    Args:
        waves: [B, samples]; what lies past `lengths` [B] is ignored.
        each_bin: normalise each mel bin on its own; False takes one mean and one variance, which
            evens out the level and keeps the shape of the voice's spectrum.

    Returns:
        frames [B, T, bins], 100 a second, zero where invalid, and their mask [B, T].
    """
    window, hop = round(0.03 * rate), round(0.01 * rate)
    valid = jnp.arange(waves.shape[1]) < lengths[:, None]
    # Zeros after the end, so that no valid frame sees the reflection of a padded batch's edge.
    silent_end = jnp.pad(jnp.where(valid, waves, 0.0), ((0, 0), (0, window)))
    frames = log_mel(silent_end, rate=rate, window=window, hop=hop, bins=bins, fmin=20.0)
    frames = frames[:, : waves.shape[1] // hop + 1]
    mask = (jnp.arange(frames.shape[1]) <= lengths[:, None] // hop).astype(jnp.float32)
    weight = mask[..., None] / mask.sum(1)[:, None, None]
    average = lambda x: x if each_bin else x.mean(-1, keepdims=True)  # noqa: E731
    mean = average((frames * weight).sum(1, keepdims=True))
    variance = average((jnp.square(frames - mean) * weight).sum(1, keepdims=True))
    frames = (frames - mean) * jax.lax.rsqrt(variance + 0.01)
    return frames * mask[..., None], mask


def istft_same(spectrum: jax.Array, hop: int, mask: jax.Array) -> jax.Array:
    """Inverse STFT with "same" padding: complex [..., T, 2 * hop + 1] -> [..., T * hop].

    The window is a periodic Hann of 4 hops. Frames are overlap-added over (T - 1) hop + 4 hop
    samples, cropped by 1.5 hops at both ends and divided by the equally cropped sum of squared
    windows (Vocos, Siuzdak 2023; X-Codec2's head).

    Args:
        mask: [..., T], 1 on real frames; the others count neither in the sum nor in the divisor,
            so that a padded item's samples equal those of the item alone.
    """
    window = _hann(4 * hop)
    frames = _irfft(spectrum, 4 * hop) * window * mask[..., None]
    envelope = _overlap_add(mask[..., None] * window**2, hop)
    count = mask.shape[-1]
    crop = slice(3 * hop // 2, 3 * hop // 2 + count * hop)
    return (_overlap_add(frames, hop) / jnp.maximum(envelope, 1e-11))[..., crop]


def _overlap_add(frames: jax.Array, hop: int) -> jax.Array:
    """Sum of shifted frames: [..., T, k * hop] -> [..., (T + k - 1) * hop]."""
    *batch, count, window = frames.shape
    parts = window // hop
    blocks = frames.reshape(*batch, count, parts, hop)
    edge = [(0, 0)] * len(batch)
    total = sum(
        jnp.pad(blocks[..., i, :], [*edge, (i, parts - 1 - i), (0, 0)]) for i in range(parts)
    )
    return total.reshape(*batch, (count + parts - 1) * hop)
