"""Reading, writing and resampling of waves on the host."""

import io
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile
import soxr

from llasa_jax.errors import UserError

MAX_SECONDS = 3600
BLOCK = 2**20  # samples over all channels that are read at a time
LOUDEST = 100  # times full scale
RATES = range(4_000, 384_001)
G722_RATE = 16_000


def read_audio(path: str | Path, rate: int | None = None) -> tuple[np.ndarray, int]:
    """Read an audio file as one channel, block by block: an hour takes the memory of its result.

    Args:
      path: any file that libsndfile reads (wav, flac, ogg, ...), or raw G.722 (``.g722``).
      rate: resample to this many samples a second; None keeps the file's own.

    Returns:
      The wave, float32 [samples], the mean of the file's channels, and its sample rate.

    Raises:
      UserError: the file is missing, broken, empty, over an hour long or holds NaN.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no audio file at {path}; check the path")
    if path.suffix.lower() == ".g722":
        wave, rate = _read_g722(path, rate)
    else:
        wave, rate = _read_soundfile(path, os.fsencode(path), rate)
    if wave.size == 0:
        raise UserError(f"audio file {path} is empty; record it again or remove it")
    return wave, rate


def decode_audio(
    data: bytes, name: str, rate: int | None = None, longest: float | None = None
) -> tuple[np.ndarray, int]:
    """What `read_audio` gives, of a file's bytes (wav, flac, ogg, mp3, ...) called `name`.

    Args:
      longest: seconds that it may last; None: an hour.

    Raises:
      UserError: as `read_audio`.
    """
    wave, rate = _read_soundfile(Path(name), io.BytesIO(data), rate, longest)
    if wave.size == 0:
        raise UserError(f"audio file {name} is empty; record it again or remove it")
    return wave, rate


def _read_soundfile(
    path: Path, file: bytes | BinaryIO, rate: int | None, longest: float | None = None
) -> tuple[np.ndarray, int]:
    """`file` is what to open: the path, or its contents."""
    try:
        with soundfile.SoundFile(file) as file:
            source, channels = file.samplerate, file.channels
            if source not in RATES:
                raise UserError(f"audio file {path} has {source} Hz; export it at 16 to 48 kHz")
            _check_length(path, file.frames / source, longest)
            blocks = file.blocks(max(1, BLOCK // channels), dtype="float32", always_2d=True)
            return _gather(path, blocks, source, rate)
    except (soundfile.LibsndfileError, OSError, RuntimeError) as error:
        reason = getattr(error, "error_string", error)  # without the name of a file in memory
        raise UserError(f"cannot read audio file {path}: {reason}; use wav, flac or ogg") from error


def _read_g722(path: Path, rate: int | None) -> tuple[np.ndarray, int]:
    import av  # FFmpeg: libsndfile has no G.722

    _check_length(path, path.stat().st_size / 8000)  # 64 kbit a second
    try:
        with av.open(str(path), format="g722") as container:
            frames = (frame.to_ndarray().reshape(-1, 1) for frame in container.decode(audio=0))
            blocks = (block.astype(np.float32) / 32768.0 for block in frames)
            return _gather(path, blocks, G722_RATE, rate)
    except (av.FFmpegError, OSError) as error:
        raise UserError(f"cannot decode G.722 file {path}: {error}; remove it") from error


def _gather(
    path: Path, blocks: Iterable[np.ndarray], source: int, rate: int | None
) -> tuple[np.ndarray, int]:
    """Blocks float32 [samples, channels] at `source` as one wave at `rate`, and its rate."""
    target = rate or source
    stream = soxr.ResampleStream(source, target, 1, "float32")
    parts = []
    for block in blocks:
        # Beyond that a file does not hold sound in [-1, 1], and would overflow further on.
        if not np.all(np.abs(block) <= LOUDEST):
            raise UserError(
                f"audio file {path} holds values that are no numbers, or over {LOUDEST} times full "
                f"scale; export it again"
            )
        mono = block.mean(axis=1)
        parts.append(mono if source == target else stream.resample_chunk(mono))
    if parts and source != target:
        parts.append(stream.resample_chunk(np.zeros(0, np.float32), last=True))
    return np.concatenate(parts) if parts else np.zeros(0, np.float32), target


def _check_length(path: Path, seconds: float, longest: float | None = None) -> None:
    if seconds > (MAX_SECONDS if longest is None else longest):
        bound = "an hour" if longest is None else f"{longest:.0f} s"
        raise UserError(f"audio file {path} lasts over {bound} ({seconds:.0f} s); cut it first")


def resample(wave: np.ndarray, source: int, target: int) -> np.ndarray:
    """Resample a wave, float32 [samples], from `source` to `target` samples a second (soxr HQ)."""
    if source == target:
        return wave
    return soxr.resample(wave, source, target).astype(np.float32, copy=False)


def write_audio(path: str | Path, wave: np.ndarray, rate: int) -> None:
    """Write a wave, float [samples] in [-1, 1] (clipped to it), as 16-bit wav or flac.

    The file appears whole or not at all.

    Raises:
      UserError: the suffix is neither ``.wav`` nor ``.flac``, the wave is empty, has channels
        or holds NaN, or the folder cannot be written.
    """
    path = Path(path)
    kind = {".wav": "WAV", ".flac": "FLAC"}.get(path.suffix.lower())
    if kind is None:
        raise UserError(f"cannot write audio to {path}: name it .wav or .flac")
    wave = np.asarray(wave, np.float32)
    if wave.ndim != 1 or wave.size == 0 or not np.isfinite(wave).all():
        raise UserError(f"nothing to write to {path}: the wave of shape {wave.shape} is no sound")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise UserError(f"cannot write audio to {path}: {error.strerror}") from error
    try:
        with os.fdopen(handle, "wb") as file:
            soundfile.write(file, to_int16(wave), rate, format=kind, subtype="PCM_16")
        os.chmod(temporary, 0o644)  # mkstemp makes it private
        os.replace(temporary, path)
    except (OSError, soundfile.LibsndfileError) as error:
        raise UserError(f"cannot write audio to {path}: {error}") from error
    finally:
        Path(temporary).unlink(missing_ok=True)


def to_int16(wave: np.ndarray) -> np.ndarray:
    """Round a wave in [-1, 1] to int16 samples of the same shape; louder samples are clipped."""
    return np.round(np.clip(wave, -1.0, 1.0) * 32767.0).astype(np.int16)
