"""From a corpus's recordings to waves that a codec can encode, and why others are left out."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from llasa_jax.audio.io import resample
from llasa_jax.config import FilterConfig
from llasa_jax.data.store import level, reject_reason, trim_silence
from llasa_jax.data.text import has_letters
from llasa_jax.data.utterance import Corpus, Utterance
from llasa_jax.errors import UserError
from llasa_jax.metrics.dnsmos import dnsmos

MAX_TEXT_CHARACTERS = 4096


@dataclass(frozen=True)
class Loaded:
    """Utterances with their waves, float32 [samples], and (id, reason) of those left out."""

    utterances: list[Utterance] = field(default_factory=list)
    waves: list[np.ndarray] = field(default_factory=list)
    rejects: list[tuple[str, str]] = field(default_factory=list)


def unusable(utterance: Utterance, settings: FilterConfig) -> str | None:
    """Why an utterance need not even be read; None when it must."""
    if settings.kind not in ("", utterance.kind):
        return f"{utterance.kind} speech"
    if settings.languages and utterance.language not in settings.languages:
        return f"another language: {utterance.language}"
    if not has_letters(utterance.text):
        return "no text"
    if len(utterance.text) > MAX_TEXT_CHARACTERS:
        return f"a text of over {MAX_TEXT_CHARACTERS} characters"
    try:
        utterance.text.encode()
    except UnicodeEncodeError:
        return "a text that is no UTF-8"
    return None


def load_all(
    jobs: Sequence[tuple[Corpus, Utterance]],
    rate: int,
    hop: int,
    settings: FilterConfig,
    leveled: bool,
) -> Loaded:
    """Reads, resamples, trims and filters recordings, in their order, with a thread a core.

    Args:
        rate: samples a second of the waves.
        hop: samples of a code; shorter waves have none.
        leveled: bring all waves to one loudness (`data.store.level`).
    """

    def read(job: tuple[Corpus, Utterance]) -> np.ndarray | str:
        corpus, utterance = job
        try:
            wave, source = corpus.read(utterance)
        except UserError as error:
            return f"broken: {error}"
        wave = trim_silence(resample(wave, source, rate), rate)
        reason = reason_against(wave, rate, utterance.text, settings)
        if reason is None and len(wave) < hop:
            reason = "shorter than a code"
        return reason or (level(wave) if leveled else wave)

    loaded = Loaded()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for (_, utterance), found in zip(jobs, pool.map(read, jobs), strict=True):
            if isinstance(found, str):
                loaded.rejects.append((utterance.id, found))
            else:
                loaded.utterances.append(utterance)
                loaded.waves.append(found)
    return loaded


def reason_against(wave: np.ndarray, rate: int, text: str, settings: FilterConfig) -> str | None:
    """Why a trimmed wave, float32 [samples], with this text is not taken; None when it is."""
    reason = reject_reason(wave, rate, settings.min_seconds, settings.max_seconds)
    if reason is not None:
        return reason
    spoken = sum(character.isalnum() for character in text) * rate / len(wave)
    if spoken < settings.min_characters_s:
        return f"under {settings.min_characters_s:g} characters a second"
    if spoken > settings.max_characters_s:
        return f"over {settings.max_characters_s:g} characters a second"
    if settings.score:
        score = {"dnsmos": dnsmos}[settings.score](wave, rate)
        if score is None or score < settings.min_score:
            return f"{settings.score} under {settings.min_score:g}"
    return None
