"""Numbers about waves: closeness of a resynthesis to its original, levels and silence.

Pairs are compared over the shorter one's length: a codec pads to whole frames.
"""

import warnings
from collections.abc import Sequence

import librosa
import numpy as np
import pystoi
from scipy.ndimage import uniform_filter1d
from scipy.signal import correlate

from llasa_jax.audio.io import resample
from llasa_jax.errors import UserError

FLOOR_DB = -120.0
FRAME_SECONDS = 0.02
SILENT_DB = -50.0
_TINY = 1e-12


def _pair(reference: np.ndarray, wave: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    length = min(len(reference), len(wave))
    return (np.asarray(reference[:length], np.float64), np.asarray(wave[:length], np.float64))


def stoi(reference: np.ndarray, wave: np.ndarray, rate: int) -> float | None:
    """Short-time objective intelligibility of a wave, [samples] (Taal et al. 2011), by pystoi.

    Returns:
        At most 1; None where it is not defined: under 0.4 s of speech in the reference.
    """
    reference, wave = _pair(reference, wave)
    if not reference.any():
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        try:
            return float(pystoi.stoi(reference, wave, rate))
        except (RuntimeWarning, ValueError):  # too few frames left, or not even one
            return None


def pesq(reference: np.ndarray, wave: np.ndarray, rate: int, band: str = "wb") -> float | None:
    """Perceptual evaluation of speech quality, ITU-T P.862 ("nb") or P.862.2 ("wb"), at 16 kHz.

    Returns:
        Mean opinion score from 1 to 4.64; None where PESQ finds no utterance.

    Raises:
        UserError: if the optional package is missing.
    """
    try:
        import pesq as package
    except ImportError as error:
        raise UserError("PESQ needs the package pesq: pip install 'llasa-jax[eval]'") from error
    reference, wave = (resample(x, rate, 16_000) for x in _pair(reference, wave))
    if not reference.any() or not wave.any():
        return None
    try:
        return float(package.pesq(16_000, reference, wave, band))
    except (package.NoUtterancesError, package.BufferTooShortError):
        return None


def mel_distance(reference: np.ndarray, wave: np.ndarray, rate: int) -> float:
    """Mean absolute difference of two log10 mel spectrograms: 80 bands, 64 ms windows, 16 ms hops.

    Magnitudes are floored at 1e-5, as in the multi-scale mel loss of Kumar et al. 2023 (DAC).
    """
    window = round(0.064 * rate)
    settings = {"sr": rate, "n_fft": window, "hop_length": window // 4, "n_mels": 80, "power": 1.0}
    mels = [librosa.feature.melspectrogram(y=x, **settings) for x in _pair(reference, wave)]
    logs = [np.log10(np.maximum(mel, 1e-5)) for mel in mels]
    return float(np.abs(logs[0] - logs[1]).mean())


def si_sdr(reference: np.ndarray, wave: np.ndarray) -> float:
    """Scale-invariant signal-to-distortion ratio in dB (Le Roux et al. 2019), means removed."""
    reference, wave = (x - x.mean() for x in _pair(reference, wave))
    target = (wave @ reference) / (reference @ reference + _TINY) * reference
    noise = wave - target
    return float(10 * np.log10((target @ target + _TINY) / (noise @ noise + _TINY)))


def delay(
    references: Sequence[np.ndarray], waves: Sequence[np.ndarray], rate: int, bound: float = 0.1
) -> int:
    """Samples by which `waves`, [samples] each, come after `references`: one number for all.

    It is where the cross-correlation of their envelopes, summed over the pairs, is largest within
    `bound` seconds. A parametric codec keeps the envelope, not the phases; a delay belongs to the
    codec, so one utterance alone need not tell it.
    """
    reach = round(bound * rate)
    total = np.zeros(2 * reach + 1)
    for reference, wave in zip(references, waves, strict=True):
        size = max(len(reference), len(wave)) + reach
        early, late = (_envelope(x, rate, size) for x in (reference, wave))
        total += correlate(late, early)[size - 1 - reach : size + reach]
    return int(total.argmax()) - reach


def _envelope(wave: np.ndarray, rate: int, size: int) -> np.ndarray:
    """Magnitudes smoothed over 5 ms, mean 0 and norm 1, followed by zeros: [size]."""
    smooth = uniform_filter1d(np.abs(wave, dtype=np.float64), round(0.005 * rate))
    smooth -= smooth.mean()
    return np.pad(smooth / (np.linalg.norm(smooth) + _TINY), (0, size - len(smooth)))


def shifted(wave: np.ndarray, delay: int, length: int) -> np.ndarray:
    """`length` samples of a wave, [samples], from sample `delay` on; zeros where it has none."""
    moved = np.zeros(length, wave.dtype)
    part = wave[max(0, delay) : max(0, delay + length)]
    start = max(0, -delay)
    moved[start : start + len(part)] = part
    return moved


def level_db(wave: np.ndarray) -> float:
    """Root mean square level of a wave, [samples], in dB of full scale; at least -120."""
    power = np.mean(np.square(wave, dtype=np.float64)) if len(wave) else 0.0
    return float(10 * np.log10(max(power, 10 ** (FLOOR_DB / 10))))


def frame_levels_db(wave: np.ndarray, rate: int) -> np.ndarray:
    """Level of each 20 ms of a wave, float64 [frames], in dB of full scale; at least -120."""
    hop = round(FRAME_SECONDS * rate)
    frames = len(wave) // hop
    power = np.square(wave[: frames * hop], dtype=np.float64).reshape(frames, hop).mean(-1)
    return 10 * np.log10(np.maximum(power, 10 ** (FLOOR_DB / 10)))


def silent_share(wave: np.ndarray, rate: int, threshold_db: float = SILENT_DB) -> float:
    """Share of a wave's 20 ms frames under the threshold; 1 for a wave without one frame."""
    levels = frame_levels_db(wave, rate)
    return float(np.mean(levels < threshold_db)) if len(levels) else 1.0


def longest_silence(wave: np.ndarray, rate: int, threshold_db: float = SILENT_DB) -> float:
    """Seconds of the longest stretch of 20 ms frames under the threshold."""
    silent = np.pad(frame_levels_db(wave, rate) < threshold_db, 1).astype(np.int8)
    edges = np.flatnonzero(np.diff(silent))
    runs = edges[1::2] - edges[::2]
    return float(runs.max(initial=0) * FRAME_SECONDS)
