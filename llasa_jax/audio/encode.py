"""Waves as files of many formats, whole or while they come."""

import io
from collections.abc import Iterable, Iterator, Mapping
from fractions import Fraction
from typing import BinaryIO, NamedTuple

import av
import numpy as np

from llasa_jax.audio.io import to_int16
from llasa_jax.errors import UserError

COMMON_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
PCM_RATE = 24_000  # of `pcm`, which has no header to say its own: clients of OpenAI expect it


class Format(NamedTuple):
    """FFmpeg's container and codec, bits a second of a lossy one, and the rates that it takes."""

    media_type: str
    container: str
    codec: str
    bit_rate: int = 0
    rates: tuple[int, ...] = ()


FORMATS = {
    "wav": Format("audio/wav", "wav", "pcm_s16le"),
    "flac": Format("audio/flac", "flac", "flac"),
    "mp3": Format("audio/mpeg", "mp3", "libmp3lame", 64_000, COMMON_RATES),
    "opus": Format("audio/ogg", "ogg", "libopus", 32_000, (8000, 12000, 16000, 24000, 48000)),
    "aac": Format("audio/aac", "adts", "aac", 64_000, COMMON_RATES),
    "pcm": Format(f"audio/pcm;rate={PCM_RATE}", "s16le", "pcm_s16le", rates=(PCM_RATE,)),
}


def encode(wave: np.ndarray, rate: int, format: str, metadata: Mapping[str, str]) -> bytes:
    """A wave, float [samples] in [-1, 1] (clipped to it), as the bytes of a file.

    The same wave gives the same bytes. A rate that the format does not know is raised to the next.

    Args:
        rate: samples a second.
        format: one of `FORMATS`: wav, flac (16 bits, lossless), mp3, opus (in Ogg), aac (ADTS), or
            pcm, which is bare 16-bit samples at 24 kHz.
        metadata: tags such as `title`, `comment`, `encoder`; pcm has no place for them.

    Raises:
        UserError: if the format is unknown, or the wave is empty, has channels or holds NaN.
    """
    file = io.BytesIO()
    for _ in _encode([wave], rate, format, metadata, file):
        pass
    return file.getvalue()


def encoded(
    waves: Iterable[np.ndarray], rate: int, format: str, metadata: Mapping[str, str]
) -> Iterator[bytes]:
    """As `encode`, of waves as they come: their bytes as soon as they are there.

    What stands in a header about the length is not known then: of wav and flac it stays open.
    """
    file = _Pipe()
    for _ in _encode(waves, rate, format, metadata, file):
        if data := file.take():
            yield data
    yield file.take()


class _Pipe(io.RawIOBase):
    """A file that can only be written to; what was written is taken out."""

    def __init__(self):
        self._data = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: bytes) -> int:
        self._data += data
        return len(data)

    def take(self) -> bytes:
        data = bytes(self._data)
        self._data.clear()
        return data


def _encode(
    waves: Iterable[np.ndarray], rate: int, format: str, metadata: Mapping[str, str], file: BinaryIO
) -> Iterator[None]:
    """Writes the waves to `file`; stops after each of them, and is done when the file is."""
    if format not in FORMATS:
        raise UserError(f"format {format!r}: unknown, there are: {', '.join(FORMATS)}")
    kind = FORMATS[format]
    options = {"fflags": "+bitexact"}
    if format == "aac":
        options["write_id3v2"] = "1"  # else ADTS has no place for tags
    heard = False
    with av.open(file, "w", format=kind.container, options=options) as container:
        container.metadata.update(metadata)
        stream = container.add_stream(kind.codec, rate=_rate(rate, kind.rates), layout="mono")
        stream.codec_context.flags |= av.codec.context.Flags.bitexact
        if kind.bit_rate:
            stream.bit_rate = kind.bit_rate
        samples = 0
        for wave in waves:
            wave = np.asarray(wave, np.float32)
            if wave.ndim != 1 or not np.isfinite(wave).all():
                raise UserError(f"nothing to encode: the wave of shape {wave.shape} is no sound")
            if not len(wave):
                continue
            container.mux(stream.encode(_frame(wave, rate, samples)))
            samples += len(wave)
            heard = True
            yield
        if not heard:
            raise UserError("nothing to encode: there is no sound")
        container.mux(stream.encode(None))
    yield


def _rate(rate: int, rates: tuple[int, ...]) -> int:
    """The rate itself, or of those that a format has the next one, or its highest."""
    return next((one for one in rates if one >= rate), rates[-1]) if rates else rate


def _frame(wave: np.ndarray, rate: int, first: int) -> av.AudioFrame:
    frame = av.AudioFrame.from_ndarray(to_int16(wave)[None], format="s16", layout="mono")
    frame.sample_rate, frame.pts, frame.time_base = rate, first, Fraction(1, rate)
    return frame
