"""The package for programs: load, say, search, encode, decode."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from llasa_jax.audio.encode import encode as encode_sound
from llasa_jax.audio.io import resample
from llasa_jax.errors import UserError
from llasa_jax.recipes import say as saying
from llasa_jax.recipes.provenance import Watermark, marked, provenance
from llasa_jax.recipes.stages import shipped_model
from llasa_jax.recipes.strategy import Search
from llasa_jax.recipes.voice import Voice
from llasa_jax.search.strategies import ranking

USUAL = Search()  # four takes, chosen by content and voice


@dataclass(frozen=True)
class Sound:
    """What was said.

    Attributes:
        wave: float32 [samples] in [-1, 1].
        rate: samples a second.
        record: JSON-able: the sentences, what was heard of them, and every search.
        tags: what its files say of themselves.
    """

    wave: np.ndarray
    rate: int
    record: dict[str, Any] = field(repr=False)
    tags: dict[str, str] = field(repr=False)

    def save(self, path: str | Path) -> None:
        """Writes it as the suffix says: .wav, .flac, .mp3, .opus or .aac; whole or not at all.

        Raises:
            UserError: if the format is unknown, or the file cannot be written.
        """
        form = saying.sound_format(path, None)
        saying.write_file(Path(path), encode_sound(self.wave, self.rate, form, self.tags))


@dataclass(frozen=True)
class Heard:
    """A take of a search, with what the verifiers say of it.

    Attributes:
        wave: float32 [samples].
        codes: int32 [T].
        status: "ok" or the name of a failure.
        scores: by verifier, higher is better.
    """

    wave: np.ndarray
    codes: np.ndarray
    status: str
    scores: dict[str, float]


class Speaker:
    """A model that speaks, made by `load`."""

    def __init__(self, voice: Voice):
        self._voice = voice

    @property
    def voices(self) -> list[str]:
        """The names of its voices."""
        return list(self._voice.voices)

    @property
    def rate(self) -> int:
        """Samples a second."""
        return self._voice.engine.rate

    def say(
        self,
        text: str,
        *,
        voice: str | None = None,
        search: Search = USUAL,
        seed: int = 0,
        normalise: str = "english",
        watermark: Watermark | None = None,
    ) -> Sound:
        """Speaks a text of any length; the same seed gives the same wave on the same machine.

        Args:
            voice: one of `voices`; None: the usual one.
            search: strategy, candidates and verifiers (`llasa_jax.recipes.strategy.Search`).
            normalise: "english" reads numbers, dates and the like as words, "none" does not.
            watermark: gets the wave and the rate, and returns the wave with a mark.

        Raises:
            UserError: if there is nothing to say, or voice or search are unknown.
        """
        if normalise not in saying.NORMALISERS:
            raise UserError(f"normalise {normalise!r}: one of {', '.join(saying.NORMALISERS)}")
        name = self._name(voice)
        how = {"name": name, "search": search, "seed": seed}
        speech = saying.speak_text(self._voice, text, normalise=normalise, **how)
        record = saying.describe(speech, **how)
        wave = marked(speech.wave, speech.rate, watermark)
        return Sound(wave, speech.rate, record, provenance(self._voice, name, seed))

    def search(
        self,
        text: str,
        *,
        voice: str | None = None,
        search: Search = USUAL,
        seed: int = 0,
    ) -> list[Heard]:
        """All takes of one sentence, the best one first.

        Raises:
            UserError: as `say`.
        """
        (pool,), _ = search.draw(self._voice, [text], [self._name(voice)], seed)
        return [
            Heard(
                pool.waves[i],
                pool.takes[i].codes,
                pool.statuses[i],
                {name: float(values[i]) for name, values in pool.scores.items()},
            )
            for i in ranking(pool, search.select)
        ]

    def encode(self, wave: np.ndarray, rate: int) -> np.ndarray:
        """The codes int32 [T] of a wave float32 [samples] at `rate` samples a second."""
        codec = self._voice.engine.codec
        wave = resample(np.asarray(wave, np.float32), rate, codec.config.sample_rate)
        return codec.encode([wave])[0]

    def decode(self, codes: Sequence[int] | np.ndarray) -> np.ndarray:
        """The wave float32 [samples], at `rate` samples a second, of codes int [T]."""
        return self._voice.engine.codec.decode([np.asarray(codes, np.int32)])[0]

    def _name(self, voice: str | None) -> str:
        return self._voice.named(voice or self._voice.usual).name


def load(
    model: str | Path | None = None, *, slots: int = saying.SLOTS, verifiers: Sequence[str] = ()
) -> Speaker:
    """What speaks with the model in a folder, or with the voice that the package carries.

    Args:
        slots: takes that are drawn at once, at most.
        verifiers: those beside "content" and "speaker": "self".

    Raises:
        UserError: the model cannot be used.
    """
    folder = shipped_model() if model is None else Path(model)
    return Speaker(Voice(folder, slots=slots, verifiers=verifiers))
