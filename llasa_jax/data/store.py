"""The prepared corpus on disk: one long array of samples and one line of metadata a wave.

A store folder holds ``audio.i16`` (int16, little endian, all waves one after the other),
``utterances.jsonl`` (an `Utterance` a line with ``start`` and ``samples``) and ``store.json``
(rate, totals, rejects). The same inputs give the same bytes.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, Self

import numpy as np

from llasa_jax.audio.io import resample, to_int16
from llasa_jax.console import bar, log
from llasa_jax.data.text import has_letters
from llasa_jax.data.utterance import Corpus, Kind, Split, Utterance
from llasa_jax.errors import UserError

VERSION = 1
MIN_SECONDS = 0.3
MAX_SECONDS = 20.0
SILENT_PEAK = 0.003  # -50 dB of full scale
FULL_SCALE = 0.999
CLIPPED_SHARE = 0.01  # of samples at full scale
TRIM_DECIBELS = 40.0  # below the loudest frame
TRIM_MARGIN_SECONDS = 0.05
LEVEL_DECIBELS = -20.0  # of the whole wave, below full scale
PEAK = 0.95
_SAMPLE = np.dtype("<i2")
_AHEAD = 64  # waves read ahead of the writer


def trim_silence(wave: np.ndarray, rate: int) -> np.ndarray:
    """Cut leading and trailing silence of a wave, float32 [samples], but for 50 ms.

    Silence is a 10 ms frame more than 40 dB below the loudest one.
    """
    hop = rate // 100
    padded = np.pad(wave, (0, -len(wave) % hop)).reshape(-1, hop)
    power = np.mean(np.square(padded, dtype=np.float64), axis=1)
    loud = np.flatnonzero(power > power.max(initial=0.0) * 10 ** (-TRIM_DECIBELS / 10))
    if not loud.size:
        return wave
    margin = round(TRIM_MARGIN_SECONDS * rate)
    return wave[max(0, loud[0] * hop - margin) : (loud[-1] + 1) * hop + margin]


def level(wave: np.ndarray) -> np.ndarray:
    """The wave, float32 [samples], at -20 dB of full scale, or as loud as its peaks allow.

    Corpora differ by 14 dB; a codec or recogniser of little training should not spend it on that.
    """
    rms = np.sqrt(np.mean(np.square(wave, dtype=np.float64)))
    gain = min(10 ** (LEVEL_DECIBELS / 20) / rms, PEAK / np.abs(wave).max())
    return (wave * gain).astype(np.float32)


def reject_reason(
    wave: np.ndarray, rate: int, shortest: float = MIN_SECONDS, longest: float = MAX_SECONDS
) -> str | None:
    """Why a trimmed wave, float32 [samples], is no good for training; None when it is."""
    seconds = len(wave) / rate
    if not len(wave) or np.abs(wave).max() < SILENT_PEAK:
        return "silent"
    if np.mean(np.abs(wave) >= FULL_SCALE) > CLIPPED_SHARE:
        return "clipped"
    if seconds < shortest:
        return f"shorter than {shortest:g} s"
    return f"longer than {longest:g} s" if seconds > longest else None


class WaveStore:
    """Waves and their metadata, read from a folder made by `build`; waves are memory-mapped."""

    def __init__(
        self, folder: Path, utterances: list[Utterance], spans: np.ndarray, info: dict[str, Any]
    ) -> None:
        self.folder = folder
        self.utterances = utterances
        self.info = info
        self.rate: int = info["rate"]
        self._spans = spans  # int64 [waves, 2]: first sample and number of samples
        self._audio = np.memmap(folder / "audio.i16", _SAMPLE, mode="r")

    def __len__(self) -> int:
        return len(self.utterances)

    def __getitem__(self, index: int) -> tuple[Utterance, np.ndarray]:
        """The utterance and its wave, float32 [samples] in [-1, 1]."""
        start, samples = self._spans[index]
        wave = self._audio[start : start + samples].astype(np.float32) / 32767.0
        return self.utterances[index], wave

    def samples(self, index: int) -> int:
        """The number of samples of a wave, without reading it."""
        return int(self._spans[index, 1])

    def select(
        self,
        split: Split | None = None,
        kind: Kind | None = None,
        with_text: bool | None = None,
        language: str | None = None,
        speaker: str | None = None,
    ) -> list[int]:
        """Indices of the waves for which everything that is given holds, in order."""
        return [
            index
            for index, one in enumerate(self.utterances)
            if split in (None, one.split)
            and kind in (None, one.kind)
            and with_text in (None, has_letters(one.text))
            and language in (None, one.language)
            and speaker in (None, one.speaker)
        ]

    def prompts(self, count: int = 40, shortest: float = 2.0, longest: float = 10.0) -> list[int]:
        """Indices of recordings to measure a codec on: of voices that no training wave has.

        The voices take turns, each in an order fixed by its ids; none if all are trained on.

        Args:
          count: at most so many.
          shortest, longest: seconds of a recording.
        """
        trained = {one.speaker for one in self.utterances if one.split == "train"}
        by_voice: dict[str, list[int]] = {}
        for index in self.select(kind="recorded"):
            one, seconds = self.utterances[index], self.samples(index) / self.rate
            if one.speaker not in trained and shortest <= seconds <= longest:
                by_voice.setdefault(one.speaker, []).append(index)
        ranked = []  # (rank within its voice, voice, index)
        for voice, indices in sorted(by_voice.items()):
            indices.sort(key=lambda i: hashlib.sha256(self.utterances[i].id.encode()).digest())
            ranked += [(rank, voice, index) for rank, index in enumerate(indices)]
        return sorted(index for *_, index in sorted(ranked)[:count])

    @classmethod
    def open(cls, folder: str | Path) -> Self:
        """Open the store in `folder`.

        Raises:
          UserError: there is none, it is damaged, or another version wrote it.
        """
        folder = Path(folder)
        if not (folder / "store.json").is_file():
            raise UserError(f"no prepared corpus in {folder}; make one with `llasa data prepare`")
        try:
            info = json.loads((folder / "store.json").read_text())
            lines = (folder / "utterances.jsonl").read_text(encoding="utf-8").split("\n")
            rows = [json.loads(line) for line in lines if line]
            names = [field.name for field in fields(Utterance)]
            utterances = [Utterance(**{name: row[name] for name in names}) for row in rows]
            spans = np.array([(row["start"], row["samples"]) for row in rows], np.int64)
            size = (folder / "audio.i16").stat().st_size
            ends = np.cumsum(spans[:, 1])
            whole = np.array_equal(spans[1:, 0], ends[:-1]) and size == _SAMPLE.itemsize * ends[-1]
            if info["version"] != VERSION or not whole:
                raise ValueError("its files do not belong together")
        except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
            raise UserError(
                f"the prepared corpus in {folder} is damaged ({error}); delete it and run "
                "`llasa data prepare` again"
            ) from error
        return cls(folder, utterances, spans, info)

    @classmethod
    def build(cls, corpora: Sequence[Corpus], folder: str | Path, rate: int = 16_000) -> Self:
        """Read every corpus into one store and open it.

        Waves are mixed to one channel, resampled, trimmed and brought to one level. Those that
        are broken, silent, clipped, too short or too long are counted with their reason, logged
        and skipped. The folder appears whole or not at all; one made before from the same inputs
        is kept.

        Args:
          corpora: what to read, in this order.
          folder: where the store goes; another store in this place is replaced.
          rate: samples a second of the store.

        Raises:
          UserError: nothing is left, an id occurs twice, or the disk is full.
        """
        folder = Path(folder)
        jobs = [(corpus, one) for corpus in corpora for one in corpus.utterances()]
        repeated = [id for id, n in Counter(one.id for _, one in jobs).items() if n > 1]
        if repeated:
            raise UserError(f"the utterance {repeated[0]} occurs twice; give each corpus once")
        versions = [(corpus.name, corpus.version) for corpus in corpora]
        fingerprint = _fingerprint(versions, [one for _, one in jobs], rate)
        if (folder / "store.json").is_file():
            store = cls.open(folder)
            if store.info["fingerprint"] == fingerprint:
                return store
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".store-") as temporary:
                made = Path(temporary) / "store"
                made.mkdir()
                info = _write(made, jobs, rate)
                info |= {"corpora": [corpus.name for corpus in corpora]}
                info |= {"fingerprint": fingerprint}
                (made / "store.json").write_text(json.dumps(info, indent=1) + "\n")
                if folder.exists():
                    if not (folder / "store.json").is_file() and any(folder.iterdir()):
                        raise UserError(f"{folder} holds other files; choose an empty folder")
                    shutil.rmtree(folder)
                os.replace(made, folder)
        except OSError as error:
            raise UserError(f"cannot write the store {folder}: {error.strerror}") from error
        return cls.open(folder)


def _fingerprint(versions: list[tuple[str, str]], utterances: list[Utterance], rate: int) -> str:
    """Names what a store was made from: corpora, utterances, the rate and the rules above."""
    rules = [VERSION, rate, MIN_SECONDS, MAX_SECONDS, SILENT_PEAK, CLIPPED_SHARE, TRIM_DECIBELS]
    rules += [LEVEL_DECIBELS, PEAK]
    text = json.dumps([rules, versions, [asdict(one) for one in utterances]])
    return hashlib.sha256(text.encode()).hexdigest()


def _read_all(
    jobs: Sequence[tuple[Corpus, Utterance]], rate: int
) -> Iterator[tuple[Utterance, np.ndarray | str]]:
    """In order, each utterance with its samples, int16 [samples], or why it is rejected.

    Threads decode ahead (the libraries release Python's lock), a bounded number of waves.
    """

    def read(job: tuple[Corpus, Utterance]) -> np.ndarray | str:
        corpus, utterance = job
        try:
            wave, source = corpus.read(utterance)
        except UserError as error:
            return f"broken: {error}"
        wave = trim_silence(resample(wave, source, rate), rate)
        return reject_reason(wave, rate) or to_int16(level(wave))

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(jobs), _AHEAD):
            block = jobs[start : start + _AHEAD]
            for (_, utterance), result in zip(block, pool.map(read, block), strict=True):
                yield utterance, result


def _write(folder: Path, jobs: Sequence[tuple[Corpus, Utterance]], rate: int) -> dict[str, Any]:
    """Write samples and metadata; the totals for ``store.json``."""
    totals: dict[str, Counter[str]] = {
        name: Counter() for name in ("corpus", "kind", "split", "speaker", "language")
    }
    rejects: Counter[str] = Counter()
    start = 0
    with (
        (folder / "audio.i16").open("wb") as audio,
        (folder / "utterances.jsonl").open("w", encoding="utf-8") as metadata,
        bar("Preparing waves", len(jobs), "files") as shown,
    ):
        for utterance, wave in _read_all(jobs, rate):
            if isinstance(wave, str):
                rejects[wave.partition(":")[0]] += 1
                log(f"skipped {utterance.id}: {wave}")
            else:
                audio.write(wave.astype(_SAMPLE, copy=False).tobytes())
                row = asdict(utterance) | {"start": start, "samples": len(wave)}
                metadata.write(json.dumps(row, ensure_ascii=False) + "\n")
                start += len(wave)
                for name, counter in totals.items():
                    counter[getattr(utterance, name)] += len(wave)
            shown.advance()
    if not start:
        reasons = ", ".join(f"{count} {reason}" for reason, count in rejects.items())
        raise UserError(f"no usable recording in the corpus ({reasons or 'it is empty'})")
    return {
        "version": VERSION,
        "rate": rate,
        "utterances": len(jobs) - rejects.total(),
        "seconds": round(start / rate, 3),
        "seconds_by": {
            name: {key: round(n / rate, 3) for key, n in sorted(counter.items())}
            for name, counter in totals.items()
        },
        "rejects": dict(sorted(rejects.items())),
    }
