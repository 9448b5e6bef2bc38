"""Options of the test suite."""

import importlib.util
import os
from pathlib import Path

import numpy as np
import pytest

from llasa_jax.audio.io import write_audio

# Of the commands that tests start, too: where libtpu is installed, jax looks for a TPU otherwise,
# and libtpu tells stderr that there is none.
os.environ.setdefault("JAX_PLATFORMS", "cpu")

OPTIONS = {
    "parity": "also compare with torch and transformers",
    "network": "also run tests that download packages",
    "slow": "also run tests that take over half a minute",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    for name, meaning in OPTIONS.items():
        parser.addoption(f"--{name}", action="store_true", help=meaning)


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--parity"):
        missing = [m for m in ("torch", "transformers") if importlib.util.find_spec(m) is None]
        if missing:  # else every comparison would be skipped in silence
            raise pytest.UsageError(f"--parity needs {', '.join(missing)} installed")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for name in OPTIONS:
        if not config.getoption(f"--{name}"):
            skip = pytest.mark.skip(reason=f"runs with --{name}")
            for item in items:
                if item.get_closest_marker(name):
                    item.add_marker(skip)


WORDS = ("amber", "bell", "cedar", "drum", "ember", "fox", "gull", "harp", "iris", "jade")
HOSTILE = "<script>alert(1)</script> & co"


def speak(text: str, pitch: float) -> np.ndarray:
    """A stand-in for speech: each letter is a short harmonic tone of its own, float32 at 16 kHz."""
    time_axis = np.arange(1280) / 16000
    tones = []
    for letter in text:
        if letter == " ":
            tones.append(np.zeros(640))
            continue
        first = 300 + 60 * (ord(letter) - 97)
        harmonics = [np.sin(2 * np.pi * pitch * k * time_axis) for k in range(1, 30)]
        gains = [np.exp(-(((pitch * k - first) / 250) ** 2)) for k in range(1, 30)]
        tones.append(np.hanning(1280) * np.dot(gains, harmonics))
    return 0.2 * np.concatenate(tones).astype(np.float32)


@pytest.fixture(scope="session")
def speech_corpus(tmp_path_factory) -> Path:
    """Forty sentences in two voices, one broken recording, and a hostile speaker's name."""
    folder = tmp_path_factory.mktemp("corpus")
    rng = np.random.default_rng(0)
    for voice, pitch in (("low", 110.0), (HOSTILE.replace("/", "-"), 200.0)):
        (folder / voice).mkdir()
        for number in range(20):
            text = " ".join(rng.choice(WORDS, 4))
            write_audio(folder / voice / f"{number}.wav", speak(text, pitch), 16000)
            (folder / voice / f"{number}.txt").write_text(text)
    (folder / "low" / "broken.wav").write_bytes(b"RIFF nonsense")
    (folder / "low" / "broken.txt").write_text("a broken one")
    return folder
