"""`llasa eval nano`: does the shipped voice say what it is given, in the voice it is given?

Every sentence is spoken by flite as the reference, rebuilt by the codec, and spoken by the language
model from a voice's prompt: N = 1 is the first take, N = 16 the one that the in-project recogniser
prefers of sixteen. Words are counted by pocketsphinx, voices told apart by the GE2E encoder;
neither took part in training or selection.
"""

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from llasa_jax.audio.io import resample
from llasa_jax.console import bar
from llasa_jax.data.debian import default_cache
from llasa_jax.data.store import level, trim_silence
from llasa_jax.data.synthetic import FliteEnglish
from llasa_jax.errors import UserError
from llasa_jax.evaluation.codec import resynthesise
from llasa_jax.evaluation.nano_report import write_nano_report
from llasa_jax.interop.resemblyzer import load_ge2e
from llasa_jax.metrics import statistics
from llasa_jax.metrics.text import ErrorCounts, normalise, word_errors
from llasa_jax.recipes.measure import bounds, hear, machine
from llasa_jax.recipes.stages import model_folder
from llasa_jax.recipes.voice import MAX_TEXT, Voice
from llasa_jax.search.guards import OK
from llasa_jax.search.strategies import best_of
from llasa_jax.verifiers.external import Pocketsphinx
from llasa_jax.verifiers.ge2e import Ge2eEncoder
from llasa_jax.verifiers.protocol import ensure_judge_differs

CANDIDATES = (1, 16)
SELECTION = {"content": 1.0}  # the in-project recogniser alone
AT_ONCE = 16  # sentences whose takes are held in memory
TIMED = 12  # sentences that are spoken one by one, for the real-time factor
ENROLLED = 6  # sentences of each identity whose mean GE2E embedding stands for it
SHOWN = 8  # sentences to listen to
KINDS = ("original", "codec", "n1", "n16")


def eval_nano(
    model: Path,
    *,
    sentences: Path | None = None,
    utterances: int = 200,
    out: Path | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Measures a voice model of `flite-en`'s identities.

    Args:
        sentences: a file with one a line; None: held-out ones of the corpus.
        utterances: at most so many of them.
        out: folder for a page to read and listen to, its figures and eval.json.

    Raises:
        UserError: there is nothing to say, the model has no voice of the corpus, or a judge or
            flite is missing.
    """
    given = None if sentences is None else read_sentences(sentences)
    corpus = FliteEnglish(default_cache())
    texts = (given or corpus.held_out(utterances))[:utterances]
    voice = Voice(model_folder(model))
    names = [one.name for one in corpus.identities]
    voices = [name for name in names if name in voice.voices]
    if len(voices) < 2:
        raise UserError(f"{model}: has {len(voices)} of the voices {', '.join(names)}; needs two")
    judge, similarity = Pocketsphinx(), Ge2eEncoder(load_ge2e())
    for other in (judge, similarity):
        ensure_judge_differs([one.name for one in voice.engine.verifiers], other.name)
    spoken = [voices[i % len(voices)] for i in range(len(texts))]

    def reference(text: str, name: str) -> np.ndarray:
        wave, source = corpus.speak(text, name)
        rate = voice.engine.rate
        return level(trim_silence(resample(wave, source, rate), rate))

    waves = {"original": [reference(*pair) for pair in zip(texts, spoken, strict=True)]}
    waves["codec"] = resynthesise(voice.engine.codec, waves["original"])
    kept = _speak(voice, texts, spoken, seed)
    heard = {}
    for n in CANDIDATES:
        waves[f"n{n}"] = [one[n]["wave"] for one in kept]
    for kind in KINDS:
        heard[kind] = hear(judge, waves[kind])
    errors = {kind: word_errors(texts, heard[kind]) for kind in KINDS}
    enrolled = [
        similarity.embed([reference(text, name) for text in corpus.held_out(utterances)[:ENROLLED]])
        for name in names
    ]
    centroids = np.stack([_unit(found.mean(0)) for found in enrolled])
    found: dict[str, Any] = {
        "data": "synthetic speech (flite)",
        "sentences": len(texts),
        "voices": voices,
        "judges": [judge.name, similarity.name],
        "selection": SELECTION,
        "seed": seed,
        "settings": voice.settings,
        "machine": machine(),
    }
    for kind in KINDS:
        found[f"wer_{kind}"] = errors[kind].rate
        found[f"wer_{kind}_interval"] = bounds(errors[kind].interval())
    for n in CANDIDATES:
        statuses = [one[n]["status"] for one in kept]
        failures = sum(status != OK for status in statuses)
        found[f"failures_n{n}"] = failures
        found[f"failures_n{n}_bound"] = statistics.upper_bound(failures, len(texts))
        found[f"failed_n{n}"] = {s: statuses.count(s) for s in sorted(set(statuses) - {OK})}
        found[f"ratio_n{n}"] = _ratio(errors[f"n{n}"], errors["codec"])
        confusion = _confusion(
            similarity, centroids, waves[f"n{n}"], [names.index(v) for v in spoken]
        )
        found[f"confusion_n{n}"] = confusion.tolist()
    found["identities"] = names
    found["voice_accuracy"] = float(np.trace(confusion) / confusion.sum())
    found["gain_n16"] = bounds(_difference(errors["n1"], errors["n16"]))
    found |= _real_time_factors(voice, texts[:TIMED], spoken[:TIMED], seed)
    if out is not None:
        samples = [
            {
                "text": texts[i],
                "voice": spoken[i],
                "waves": {kind: waves[kind][i] for kind in KINDS},
                "heard": {kind: heard[kind][i] for kind in KINDS},
            }
            for i in range(min(SHOWN, len(texts)))
        ]
        rows = [
            {
                "text": text,
                "voice": spoken[i],
                "heard": {kind: heard[kind][i] for kind in KINDS},
                "status": {f"n{n}": kept[i][n]["status"] for n in CANDIDATES},
            }
            for i, text in enumerate(texts)
        ]
        write_nano_report(out, found, samples, rows, voice.engine.rate)
    return found


def read_sentences(path: Path) -> list[str]:
    """Texts of a file, one a line; UserError if there is none or one cannot be spoken."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as text ({error}); check it") from error
    texts = [line.strip() for line in lines if line.strip()]
    if not texts:
        raise UserError(f"{path}: holds no sentence; write one a line")
    for text in texts:
        if not normalise(text) or len(text) > MAX_TEXT:
            raise UserError(f"{path}: {text[:40]!r} has no letter, or over {MAX_TEXT} characters")
    return texts


def _speak(
    voice: Voice, texts: Sequence[str], speakers: Sequence[str], seed: int
) -> list[dict[int, dict[str, Any]]]:
    """Of each text the kept take at each N: its wave and status."""
    found = []
    with bar("speak and search", len(texts), "sentences") as progress:
        for start in range(0, len(texts), AT_ONCE):
            part = slice(start, start + AT_ONCE)
            pools, _ = voice.pools(
                texts[part], speakers[part], candidates=max(CANDIDATES), seed=seed + start
            )
            for pool in pools:
                chosen = {n: best_of(pool.first(n), SELECTION) for n in CANDIDATES}
                found.append(
                    {
                        n: {"wave": pool.waves[i], "status": pool.statuses[i]}
                        for n, i in chosen.items()
                    }
                )
            progress.advance(len(pools))
    return found


def _ratio(errors: ErrorCounts, codec: ErrorCounts) -> dict[str, Any]:
    """Word error as a multiple of the codec's own, paired."""
    quotient = statistics.rate_quotient(errors.errors, errors.length, codec.errors, codec.length)
    return quotient.to_json()


def _difference(more: ErrorCounts, less: ErrorCounts) -> statistics.Interval:
    return statistics.rate_difference(more.errors, more.length, less.errors, less.length)


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x)


def _confusion(
    encoder: Ge2eEncoder, centroids: np.ndarray, waves: Sequence[np.ndarray], true: Sequence[int]
) -> np.ndarray:
    """How often a wave of identity i is nearest to identity j: int [identities, identities]."""
    nearest = (encoder.embed(waves) @ centroids.T).argmax(1)
    counts = np.zeros((len(centroids), len(centroids)), np.int64)
    np.add.at(counts, (np.asarray(true), nearest), 1)
    return counts


def _real_time_factors(
    voice: Voice, texts: Sequence[str], speakers: Sequence[str], seed: int
) -> dict[str, float]:
    """Seconds of work, verifiers included, a second of sound; one sentence at a time, compiled."""
    found = {}
    for n in CANDIDATES:
        one = partial(voice.pools, candidates=n, seed=seed)
        for _ in range(2):  # the first round compiles
            start, seconds = time.monotonic(), 0.0
            for text, speaker in zip(texts, speakers, strict=True):
                (pool,), _ = one([text], [speaker])
                seconds += len(pool.waves[best_of(pool, SELECTION)]) / voice.engine.rate
            taken = time.monotonic() - start
        found[f"rtf_n{n}"] = taken / seconds
    return found
