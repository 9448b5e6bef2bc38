"""What every sound file says of itself: that it is synthetic, and what it was made with."""

from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Protocol

import numpy as np

from llasa_jax import __version__
from llasa_jax.errors import UserError
from llasa_jax.recipes.voice import Voice

SYNTHETIC = "synthetic speech"
WATERMARKS = "llasa_jax.watermark"  # the group of entry points


class Watermark(Protocol):
    """Hides a mark in a sound."""

    def __call__(self, wave: np.ndarray, rate: int) -> np.ndarray:
        """The wave with the mark: float32 [samples] in and out, of the same length."""
        ...


def provenance(voice: Voice, name: str, seed: int) -> dict[str, str]:
    """Tags of a sound file, for `audio.encode.encode`. They say nothing of the text.

    The same model, voice and seed give the same tags: there is no date in them.
    """
    software = f"llasa_jax {__version__}"
    made = f"software={software}; model={voice.fingerprint}; voice={name}; seed={seed}"
    return {
        "artist": f"{software}, {SYNTHETIC}",
        "comment": f"{SYNTHETIC}; {made}",
        "copyright": "as the licence of the model allows, see README.md beside it",
    }


def watermark(name: str) -> Watermark:
    """The watermark that an installed package offers under this name.

    Only an entry point of the group `llasa_jax.watermark` is taken: what is installed runs, no file
    or setting of a stranger does.

    Raises:
        UserError: there is none of that name.
    """
    offered = {found.name: found for found in entry_points(group=WATERMARKS)}
    if name not in offered:
        known = ", ".join(sorted(offered)) or "none"
        raise UserError(f"--watermark {name}: no installed package offers it, there are: {known}")
    return offered[name].load()


def marked(wave: np.ndarray, rate: int, mark: Callable | None) -> np.ndarray:
    """The wave with the watermark, if there is one.

    Raises:
        UserError: if it returns no wave of the same length.
    """
    if mark is None:
        return wave
    found = np.asarray(mark(wave, rate), np.float32)
    if found.shape != wave.shape or not np.isfinite(found).all():
        raise UserError(f"watermark: gave a wave of shape {found.shape}, not {wave.shape}")
    return found
