"""The speech synthesiser flite: texts spoken by its voices and by variants of them, cached."""

import hashlib
import os
import shutil
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from llasa_jax.audio.io import read_audio, resample
from llasa_jax.console import bar
from llasa_jax.data.debian import fetch_packages, library_path
from llasa_jax.errors import UserError

VOICES = ("slt", "rms", "awb", "kal16")
_SILENCE_SECONDS = 0.25  # flite's own pauses around a text, which the store trims
_BATCH = 128


@dataclass(frozen=True)
class Identity:
    """One of flite's `VOICES`, or another speaker made of it.

    Pitch and formants are `scale` times the voice's, as of a shorter vocal tract (above 1) or a
    longer one, at the voice's own tempo.
    """

    name: str
    voice: str
    scale: float = 1.0


Take = tuple[Identity, str]  # who says which text


class Flite:
    """Speaks into `cache`: the system's own flite, else the one of Debian's packages.

    Raises:
      UserError: it cannot be fetched, or lacks one of `VOICES`.
    """

    def __init__(self, cache: Path) -> None:
        self._folder = cache.resolve() / "flite"
        self._program, self._environment = _find(cache)

    def first(self, takes: Sequence[Take], seconds: float) -> list[Take]:
        """The first takes that last `seconds` together, spoken; UserError when all are shorter."""
        chosen: list[Take] = []
        done = 0.0
        with (
            ThreadPoolExecutor(os.cpu_count()) as pool,
            bar("Speaking synthetic sentences", seconds, "s of speech") as shown,
        ):
            for start in range(0, len(takes), _BATCH):
                batch = takes[start : start + _BATCH]
                lengths = pool.map(self._speak, batch)
                for take, length in zip(batch, lengths, strict=True):
                    if done >= seconds:
                        return chosen
                    chosen.append(take)
                    done += length
                    shown.advance(length)
        raise UserError(
            f"WordNet's glosses give only {done / 60:.0f} minutes of speech, not "
            f"{seconds / 60:g}; ask for fewer minutes"
        )

    def read(self, take: Take) -> tuple[np.ndarray, int]:
        """The wave, float32 [samples], and its sample rate; spoken now if it is not yet."""
        self._speak(take)
        wave, rate = read_audio(self._path(take))
        # Played `scale` times as fast: spoken that much slower, it has its tempo again.
        return resample(wave, round(rate * take[0].scale), rate), rate

    def _path(self, take: Take) -> Path:
        identity, text = take
        folder = identity.voice + ("" if identity.scale == 1 else f"-{identity.scale:g}")
        return self._folder / folder / f"{text_key(text)}.wav"

    def _speak(self, take: Take) -> float:
        """Speak into the cache unless it is there; the seconds of speech of the take."""
        path = self._path(take)
        try:
            if not path.exists():
                self._run(take, path)
            return max(0.0, soundfile.info(path).duration / take[0].scale - _SILENCE_SECONDS)
        except (OSError, soundfile.LibsndfileError) as error:
            raise UserError(
                f"cannot write speech to {path.parent} ({error}); check disk"
            ) from error

    def _run(self, take: Take, path: Path) -> None:
        identity, text = take
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        command = [self._program, "-voice", identity.voice, "-t", text, "-o", temporary]
        if identity.scale != 1:
            command += ["--setf", f"duration_stretch={identity.scale:g}"]
        done = subprocess.run(command, env=self._environment, capture_output=True, text=True)
        # With a full disk flite says nothing and leaves a short file.
        if done.returncode or soundfile.info(temporary).frames == 0:
            raise UserError(f"flite cannot speak ({done.stderr.strip()[:200]}); check the disk")
        os.replace(temporary, path)


def text_key(text: str) -> str:
    """Sixteen hexadecimal digits that name a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _find(cache: Path) -> tuple[str, dict[str, str]]:
    """The program and the environment to run it in."""
    environment = dict(os.environ)
    program = shutil.which("flite")
    if program is None:
        roots = fetch_packages(["flite"], cache, libraries=True)
        program = str(roots[0] / "usr/bin/flite")
        paths = [library_path(roots), environment.get("LD_LIBRARY_PATH")]
        environment["LD_LIBRARY_PATH"] = os.pathsep.join(filter(None, paths))
    listed = subprocess.run([program, "-lv"], env=environment, capture_output=True, text=True)
    missing = set(VOICES) - set(listed.stdout.split())
    if missing:
        raise UserError(
            f"{program} does not run with the voices {', '.join(sorted(missing))} "
            f"({listed.stderr.strip()[:200] or 'not built in'}); install flite 2.2"
        )
    return program, environment
