"""Recordings to codes and back, file by file: `llasa codec encode` and `decode`."""

import os
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from llasa_jax.audio.io import read_audio, write_audio
from llasa_jax.codec.batch import LONGEST, BatchCodec
from llasa_jax.codec.lengths import Length, code_count
from llasa_jax.codec.stream import StreamDecoder
from llasa_jax.console import bar, log
from llasa_jax.data.store import CLIPPED_SHARE, FULL_SCALE, SILENT_PEAK
from llasa_jax.errors import UserError
from llasa_jax.recipes.stages import load_codec, model_folder

AUDIO = (".wav", ".flac", ".ogg", ".mp3", ".opus", ".g722")
AT_ONCE = 256  # files held in memory
SAMPLES_AT_ONCE = 1 << 26  # and about that many samples of them: an hour at 16 kHz
MAX_SECONDS = 3600


def encode_files(
    inputs: Sequence[Path], model: Path, out: Path, length: Length = "training"
) -> int:
    """Codes of every recording as `NAME.npy`, int32 [T], under `out`; returns their number.

    Recordings are mixed to one channel and resampled; a broken one is named, counted and left out.

    Args:
        length: the convention for the number of codes, of `codec.lengths`.
    """
    codec = load_codec(model_folder(model))
    rate, hop = codec.config.sample_rate, codec.config.hop

    def read(path: Path) -> np.ndarray:
        wave, _ = read_audio(path, rate)
        if code_count(codec.config, len(wave), length) == 0:
            raise UserError(f"{path}: is shorter than one frame of {hop} samples; leave it out")
        if np.abs(wave).max() < SILENT_PEAK:
            log(f"note: {path}: is silent")
        elif np.mean(np.abs(wave) >= FULL_SCALE) > CLIPPED_SHARE:
            log(f"note: {path}: is clipped")
        return wave

    def convert(waves: list[np.ndarray], on_batch: Callable[[int], None]) -> list[np.ndarray]:
        return codec.encode(waves, on_batch, length)

    def write(path: Path, codes: np.ndarray) -> None:
        temporary = path.with_name(f".{path.name}.tmp")
        try:
            with temporary.open("wb") as file:
                np.save(file, codes, allow_pickle=False)
            os.replace(temporary, path)
        except OSError as error:
            raise UserError(f"cannot write codes to {path}: {error.strerror}") from error
        finally:
            temporary.unlink(missing_ok=True)

    return _convert("encode", inputs, AUDIO, out, ".npy", read, len, convert, write)


def decode_files(
    inputs: Sequence[Path], model: Path, out: Path, chunk_seconds: float | None = None
) -> int:
    """Waves of every `.npy` file of codes as `NAME.wav` under `out`; returns their number.

    Args:
        chunk_seconds: decode as a stream does, so much at a time; None decodes files whole, as far
            as memory allows.
    """
    codec = load_codec(model_folder(model))
    convert = codec.decode if chunk_seconds is None else _streamed(codec, chunk_seconds)

    def read(path: Path) -> np.ndarray:
        return read_codes_file(path, codec)

    def samples(codes: np.ndarray) -> int:
        return len(codes) * codec.config.output_hop

    def write(path: Path, wave: np.ndarray) -> None:
        write_audio(path, wave, codec.config.output_rate)

    return _convert("decode", inputs, (".npy",), out, ".wav", read, samples, convert, write)


def _streamed(codec: BatchCodec, chunk_seconds: float) -> Callable:
    """What `BatchCodec.decode` does, by a `StreamDecoder`."""
    rate = codec.config.frame_rate
    if not 1 <= chunk_seconds * rate <= LONGEST:
        limits = f"from {1 / rate:.3g} to {LONGEST / rate:.3g}"
        raise UserError(f"--chunk-seconds {chunk_seconds:g}: give {limits}")
    stream = StreamDecoder(codec.config, codec.params, round(chunk_seconds * rate))
    log(f"decode: {stream.chunk} codes at a time, heard {stream.latency:.2f} s after they began")

    def convert(codes: list[np.ndarray], on_batch: Callable[[int], None]) -> list[np.ndarray]:
        waves = []
        for sequence in codes:
            waves.append(np.concatenate(list(stream(sequence))))
            on_batch(1)
        return waves

    return convert


def read_codes_file(path: Path, codec: BatchCodec) -> np.ndarray:
    """Codes int32 [T] of a `.npy` file, checked against the codec's codebook.

    Raises:
        UserError: if the file holds anything else, or codes of over an hour.
    """
    limit = round(MAX_SECONDS * codec.config.frame_rate)
    try:
        if path.stat().st_size > 8 * limit + 1024:
            raise UserError(f"{path}: over an hour of codes; split it")
        # Mapped, not loaded: numpy compares the header's shape with the file before it allocates.
        # It reads the header with Python's own parser, which may raise nearly anything.
        with np.errstate(over="ignore"):
            codes = np.lib.format.open_memmap(path, mode="r")
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{path}: holds no array of codes; use `llasa codec encode`") from error
    if codes.ndim != 1 or not np.issubdtype(codes.dtype, np.integer):
        raise UserError(f"{path}: is {codes.dtype} {codes.shape}; codes are integers [T]")
    if len(codes) > limit:
        raise UserError(f"{path}: over an hour of codes; split it")
    size = codec.config.codebook_size
    if not len(codes) or codes.min() < 0 or codes.max() >= size:
        raise UserError(f"{path}: needs at least one code, each in 0..{size - 1}")
    return codes.astype(np.int32)


def _convert(
    name: str,
    inputs: Sequence[Path],
    suffixes: Sequence[str],
    out: Path,
    suffix: str,
    read: Callable[[Path], np.ndarray],
    samples: Callable[[np.ndarray], int],
    convert: Callable[[list[np.ndarray], Callable[[int], None]], list[np.ndarray]],
    write: Callable[[Path, np.ndarray], None],
) -> int:
    """Reads, converts and writes all files, some at a time; bad ones are named and counted.

    Args:
        samples: how many samples something read stands for.
    """
    jobs = deque(_jobs(inputs, suffixes, out, suffix))
    total, done, bad = len(jobs), 0, 0
    with bar(name, total, "files") as progress:
        while jobs:
            values, targets, held = [], [], 0
            while jobs and len(values) < AT_ONCE and held < SAMPLES_AT_ONCE:
                source, target = jobs.popleft()
                try:
                    values.append(read(source))
                    targets.append(target)
                    held += samples(values[-1])
                except UserError as error:
                    log(f"left out: {error}")
                    bad += 1
            for target, value in zip(targets, convert(values, progress.advance), strict=True):
                try:
                    target.parent.mkdir(parents=True, exist_ok=True)
                    write(target, value)
                    done += 1
                except UserError as error:
                    log(f"left out: {error}")
                    bad += 1
    log(f"{name}: {done} files written to {out}, {bad} left out")
    if not done:
        raise UserError(f"{name}: none of the {total} files could be read; see the lines above")
    return done


def _jobs(
    inputs: Sequence[Path], suffixes: Sequence[str], out: Path, suffix: str
) -> list[tuple[Path, Path]]:
    """(source, target) of every file; folders keep their tree.

    Raises:
        UserError: if there is none, or two would be written to one place.
    """
    jobs = []
    for given in inputs:
        if given.is_dir():
            found = sorted(p for p in given.rglob("*") if p.suffix.lower() in suffixes)
            jobs += [(path, out / path.relative_to(given).with_suffix(suffix)) for path in found]
        elif given.is_file():
            jobs.append((given, out / Path(given.name).with_suffix(suffix)))
        else:
            raise UserError(f"{given}: no such file or folder")
    if not jobs:
        raise UserError(f"no file with {', '.join(suffixes)} in {', '.join(map(str, inputs))}")
    seen: dict[Path, Path] = {}
    for source, target in jobs:
        if target in seen:
            raise UserError(f"{source} and {seen[target]} would both become {target}; rename one")
        seen[target] = source
    return jobs
