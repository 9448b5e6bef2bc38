"""Scores of codecs on the same recordings, all at 16 kHz."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from llasa_jax.evaluation.peers import RATE, WaveCodec
from llasa_jax.evaluation.scorers import Scorer
from llasa_jax.metrics import statistics
from llasa_jax.metrics.text import word_errors
from llasa_jax.metrics.waves import delay, mel_distance, pesq, shifted, si_sdr, stoi

# What compares a wave with its original: (original, wave) -> number, None where not defined.
PAIRED: dict[str, Callable[[np.ndarray, np.ndarray], float | None]] = {
    "stoi": partial(stoi, rate=RATE),
    "pesq_wb": partial(pesq, rate=RATE, band="wb"),
    "pesq_nb": partial(pesq, rate=RATE, band="nb"),
    "mel_distance": partial(mel_distance, rate=RATE),
    "si_sdr": si_sdr,
}
NO_TEXT = "no English recording with a known text among them"


@dataclass(frozen=True)
class Recording:
    """A wave to measure codecs on, float32 [samples] at 16 kHz; `text` may be unknown (empty)."""

    name: str
    wave: np.ndarray
    text: str = ""
    speaker: str = ""
    language: str = ""
    kind: str = ""
    corpus: str = ""


def describe(recordings: Sequence[Recording]) -> dict[str, Any]:
    """What was measured on: whose voices, recorded or synthetic, how much."""

    def names(key: str) -> list[str]:
        return sorted({getattr(one, key) for one in recordings} - {""})

    return {
        "corpora": names("corpus"),
        "voices": names("speaker"),
        "languages": names("language"),
        "kinds": names("kind"),
        "utterances": len(recordings),
        "hours": sum(len(one.wave) for one in recordings) / RATE / 3600,
    }


@dataclass(frozen=True)
class Rebuilt:
    """What came out of a codec: waves at 16 kHz, what they went through, and figures about it."""

    waves: list[np.ndarray]
    payloads: list[Any]
    about: dict[str, float]


def rebuild(codec: WaveCodec, waves: Sequence[np.ndarray]) -> Rebuilt:
    """The waves through the codec, no longer than what went in, and on its time.

    `about` has the bits a second, the delay taken off, and the real-time factors: seconds of work
    for each second of sound.
    """
    seconds = sum(map(len, waves)) / RATE
    start = time.perf_counter()
    payloads = codec.encode(waves)
    encoded = time.perf_counter()
    decoded = codec.decode(payloads)
    end = time.perf_counter()
    late = delay(waves, decoded, RATE) if codec.late else 0
    moved = [shifted(y, late, min(len(y), len(x))) for x, y in zip(waves, decoded, strict=True)]
    about = {
        "bits_per_second": codec.bits_per_second(payloads, seconds),
        "encode_rtf": (encoded - start) / seconds,
        "decode_rtf": (end - encoded) / seconds,
        "delay_ms": 1000 * late / RATE,
    }
    return Rebuilt(moved, payloads, about)


def paired_scores(
    originals: Sequence[np.ndarray],
    rebuilt: Sequence[np.ndarray],
    on_wave: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """`summary` of every measure in `PAIRED` over the pairs of waves."""
    scores: dict[str, list[float | None]] = {name: [] for name in PAIRED}
    for original, wave in zip(originals, rebuilt, strict=True):
        for name, measure in PAIRED.items():
            scores[name].append(measure(original, wave))
        on_wave()
    return {key: x for name, values in scores.items() for key, x in summary(name, values).items()}


def summary(name: str, values: Sequence[float | None]) -> dict[str, Any]:
    """{name: mean, name_interval: [low, high] at 95 %, name_utterances: how many have a value}."""
    defined = [value for value in values if value is not None]
    return entries(name, statistics.mean(defined) if defined else None)


def entries(name: str, interval: statistics.Interval | None) -> dict[str, Any]:
    """An interval as `summary` gives it; nulls where there is none."""
    if interval is None:
        return {name: None, f"{name}_interval": None, f"{name}_utterances": 0}
    found = interval.to_json()
    bounds = [found["low"], found["high"]]
    return {name: found["value"], f"{name}_interval": bounds, f"{name}_utterances": found["n"]}


def judged(
    scorer: Scorer,
    texts: Sequence[str],
    spoken: Mapping[str, Sequence[np.ndarray]],
    waves: Mapping[str, Sequence[np.ndarray]],
    scored: int,
) -> dict[str, dict[str, Any]]:
    """What a further judge says of each codec's waves: `wer_NAME` of those that are `spoken`, or of
    the first `scored` ones `similarity_NAME` with the originals, or of quality NAME itself."""
    if scorer.kind == "words":
        found = word_scores(texts, spoken, scorer.judge)
        return {
            name: {f"{key.replace('wer', f'wer_{scorer.name}', 1)}": x for key, x in one.items()}
            for name, one in found.items()
        }
    heard = {name: scorer.judge(each[:scored]) for name, each in waves.items()}
    if scorer.kind == "quality":
        return {
            name: summary(scorer.name, [float(x) if np.isfinite(x) else None for x in values])
            for name, values in heard.items()
        }
    targets = heard["original"]
    return {
        name: summary(f"similarity_{scorer.name}", (own * targets).sum(1))
        for name, own in heard.items()
    }


def word_scores(
    texts: Sequence[str],
    waves: Mapping[str, Sequence[np.ndarray]],
    transcribe: Callable[[Sequence[np.ndarray]], list[str]],
) -> dict[str, dict[str, Any]]:
    """Word error rate of a recogniser on each codec's waves of the same texts."""
    if not texts:
        return {name: entries("wer", None) | {"wer_reason": NO_TEXT} for name in waves}
    heard = iter(transcribe([wave for each in waves.values() for wave in each]))
    found = {}
    for name in waves:
        errors = word_errors(texts, [next(heard) for _ in texts])
        found[name] = entries("wer", errors.interval())
    return found
