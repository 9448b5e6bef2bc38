"""Recordings to codes and back, file by file: `llasa codec encode` and `decode`."""

import io
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from llasa_jax.audio.io import read_audio, write_audio
from llasa_jax.codec.batch import BatchCodec
from llasa_jax.console import bar, log
from llasa_jax.errors import UserError
from llasa_jax.recipes.stages import load_codec, model_folder

AUDIO = (".wav", ".flac", ".ogg", ".mp3", ".opus", ".g722")
AT_ONCE = 256  # files held in memory
MAX_CODES = 50 * 3600  # an hour at 50 codes a second


def encode_files(inputs: Sequence[Path], model: Path, out: Path) -> int:
    """Codes of every recording as `NAME.npy`, int32 [T], under `out`; returns their number.

    Recordings are mixed to one channel and resampled; a broken one is named, counted and left out.
    """
    codec = load_codec(model_folder(model))
    rate, hop = codec.config.sample_rate, codec.config.hop

    def read(path: Path) -> np.ndarray:
        wave, _ = read_audio(path, rate)
        if len(wave) < hop:
            raise UserError(f"{path}: is shorter than one frame of {hop} samples; leave it out")
        return wave

    def write(path: Path, codes: np.ndarray) -> None:
        buffer = io.BytesIO()
        np.save(buffer, codes, allow_pickle=False)
        temporary = path.with_name(f".{path.name}.tmp")
        temporary.write_bytes(buffer.getvalue())
        os.replace(temporary, path)

    return _convert("encode", inputs, AUDIO, out, ".npy", read, codec.encode, write)


def decode_files(inputs: Sequence[Path], model: Path, out: Path) -> int:
    """Waves of every `.npy` file of codes as `NAME.wav` under `out`; returns their number."""
    codec = load_codec(model_folder(model))

    def read(path: Path) -> np.ndarray:
        return read_codes_file(path, codec)

    def write(path: Path, wave: np.ndarray) -> None:
        write_audio(path, wave, codec.config.sample_rate)

    return _convert("decode", inputs, (".npy",), out, ".wav", read, codec.decode, write)


def read_codes_file(path: Path, codec: BatchCodec) -> np.ndarray:
    """Codes int32 [T] of a `.npy` file, checked against the codec's codebook."""
    try:
        if path.stat().st_size > 8 * MAX_CODES + 1024:
            raise UserError(f"{path}: over an hour of codes; split it")
        codes = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: no array of codes ({error}); use `llasa codec encode`") from error
    if codes.ndim != 1 or not np.issubdtype(codes.dtype, np.integer):
        raise UserError(f"{path}: is {codes.dtype} {codes.shape}; codes are integers [T]")
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
    convert: Callable[[list[np.ndarray], Callable[[int], None]], list[np.ndarray]],
    write: Callable[[Path, np.ndarray], None],
) -> int:
    """Reads, converts and writes all files, some at a time; bad ones are named and counted."""
    jobs = _jobs(inputs, suffixes, out, suffix)
    done = bad = 0
    with bar(name, len(jobs), "files") as progress:
        for start in range(0, len(jobs), AT_ONCE):
            values, targets = [], []
            for source, target in jobs[start : start + AT_ONCE]:
                try:
                    values.append(read(source))
                    targets.append(target)
                except UserError as error:
                    log(f"left out: {error}")
                    bad += 1
            for target, value in zip(targets, convert(values, progress.advance), strict=True):
                target.parent.mkdir(parents=True, exist_ok=True)
                write(target, value)
            done += len(values)
    log(f"{name}: {done} files written to {out}, {bad} left out")
    if not done:
        raise UserError(f"{name}: none of the {len(jobs)} files could be read; see the lines above")
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
