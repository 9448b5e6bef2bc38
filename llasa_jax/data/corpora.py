"""Corpora by name, mixtures of them, and corpora out of a folder of one's own recordings."""

import csv
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from llasa_jax.audio.io import read_audio
from llasa_jax.console import log
from llasa_jax.data.debian import default_cache
from llasa_jax.data.parquet import ParquetCorpus
from llasa_jax.data.recordings import COLLECTIONS, AsteriskCorpus, CollectedCorpus, FilletsCorpus
from llasa_jax.data.store import WaveStore
from llasa_jax.data.synthetic import FliteCorpus, FliteEnglish
from llasa_jax.data.tars import TarCorpus
from llasa_jax.data.tfds import PUBLISHED, TfdsCorpus, named_dataset
from llasa_jax.data.utterance import Corpus, Utterance, files_version, split_of
from llasa_jax.errors import UserError

_SINGLE = (
    FliteCorpus.name,
    *(f"asterisk-{language}" for language in AsteriskCorpus.SPEAKERS),
    "fillets-nl",
    "fillets-cs",
    *COLLECTIONS,
)
MIXTURES = {"nano": _SINGLE}  # all speech that can be reached
_SPOKEN = {kind.name: kind for kind in (FliteCorpus, FliteEnglish)}
NAMES = (*_SINGLE, FliteEnglish.name, *MIXTURES, *PUBLISHED)
OWN_LICENCE = "the user's own"
_SUFFIXES = (".wav", ".flac")
_MAX_TEXT_BYTES = 64 * 1024


def named_corpus(
    name: str,
    cache: Path | None = None,
    minutes: float = 60.0,
    seed: int = 0,
    language: str = "en",
    licence: str = OWN_LICENCE,
) -> Corpus:
    """The built-in corpus called `name`, or the one in the folder `name`.

    Args:
      name: one of `NAMES`; or a folder: of recordings (`FolderCorpus`), of WebDataset tars, of
        Parquet files, of a dataset that TFDS prepared, or a prepared store of waves.
      cache: where downloads go; None is `default_cache`.
      minutes: how much synthetic speech to make.
      seed: which sentences and voices speak it.
      language, licence: of a folder that does not say.

    Raises:
      UserError: an unknown name, an empty folder, or a corpus that cannot be fetched.
    """
    cache = cache or default_cache()
    if name in _SPOKEN:
        return _SPOKEN[name](cache, minutes, seed)
    if name in MIXTURES:
        parts = MIXTURES[name]
        return Mixture(name, [named_corpus(part, cache, minutes, seed) for part in parts])
    if name in COLLECTIONS:
        return CollectedCorpus(name, cache)
    if name in _SINGLE:
        kind, _, language = name.partition("-")
        return {"asterisk": AsteriskCorpus, "fillets": FilletsCorpus}[kind](language, cache)
    if name in PUBLISHED:
        return named_dataset(name)
    if Path(name).is_dir():
        return folder_corpus(Path(name), language, licence)
    raise UserError(f"no corpus {name!r}: give a folder of recordings or one of {', '.join(NAMES)}")


def folder_corpus(folder: Path, language: str, licence: str) -> Corpus:
    """The corpus in a folder, of the kind that its files show."""
    if (folder / "store.json").is_file():
        return StoreCorpus(folder)
    if (folder / "dataset_info.json").is_file():
        return TfdsCorpus(folder)
    for suffix, kind in ((".tar", TarCorpus), (".parquet", ParquetCorpus)):
        if next(folder.rglob(f"*{suffix}"), None) is not None:
            return kind(folder, language, licence)
    return FolderCorpus(folder, language, licence)


class StoreCorpus:
    """The waves of a prepared store; each utterance keeps its id."""

    rejects = ()

    def __init__(self, folder: Path) -> None:
        self._store = WaveStore.open(folder)
        self.name = folder.resolve().name
        self.version: str = self._store.info["fingerprint"]
        self._places = {one.id: place for place, one in enumerate(self._store.utterances)}

    def utterances(self) -> list[Utterance]:
        """Those of the store, in its order."""
        return self._store.utterances

    def read(self, utterance: Utterance) -> tuple[np.ndarray, int]:
        """The wave, float32 [samples], and the store's sample rate."""
        if utterance.id not in self._places:
            raise UserError(f"{utterance.id} is not in the store {self._store.folder}")
        return self._store[self._places[utterance.id]][1], self._store.rate


class PlayedCorpus:
    """The training recordings of a corpus, played `speed` times as fast: other pitches and
    formants, as if there were more voices."""

    rejects = ()

    def __init__(self, corpus: Corpus, speed: float) -> None:
        self._corpus, self._speed = corpus, speed
        self.name, self._mark = corpus.name, f"@{speed:g}"

    @property
    def version(self) -> str:
        return self._corpus.version

    def utterances(self) -> list[Utterance]:
        """Those of the training split, in the corpus's order."""
        train = (one for one in self._corpus.utterances() if one.split == "train")
        return [replace(one, id=one.id + self._mark) for one in train]

    def read(self, utterance: Utterance) -> tuple[np.ndarray, int]:
        """The wave as it was recorded, float32 [samples], and the rate that it is played at."""
        own = replace(utterance, id=utterance.id.removesuffix(self._mark))
        wave, rate = self._corpus.read(own)
        return wave, round(rate * self._speed)


class Mixture:
    """Several corpora under one name; each utterance keeps its own corpus in its id."""

    def __init__(self, name: str, parts: Sequence[Corpus]) -> None:
        self.name = name
        self._parts = {part.name: part for part in parts}

    @property
    def version(self) -> str:
        return str([(part.name, part.version) for part in self._parts.values()])

    @property
    def rejects(self) -> list[tuple[str, str]]:
        return [reject for part in self._parts.values() for reject in part.rejects]

    def utterances(self) -> list[Utterance]:
        """Those of every part, in order."""
        return [one for part in self._parts.values() for one in part.utterances()]

    def read(self, utterance: Utterance) -> tuple[np.ndarray, int]:
        """The wave, float32 [samples], and its sample rate."""
        return self._parts[utterance.id.partition("/")[0]].read(utterance)


class FolderCorpus:
    """Recordings of one's own.

    Either wav and flac files at any depth, each beside a ``.txt`` of the same name (without one
    it has no text), where the first sub-folder names the speaker; or LJSpeech's layout: a
    ``metadata.csv`` of ``id|text|normalised text`` beside ``wavs/``.
    """

    rejects = ()

    def __init__(self, folder: Path, language: str = "en", licence: str = OWN_LICENCE) -> None:
        self._folder = folder.resolve()
        if not self._folder.is_dir():
            raise UserError(f"no corpus folder at {folder}; check the path")
        self.name = self._folder.name or "folder"
        self.language = language
        self.licence = licence
        metadata = self._folder / "metadata.csv"
        self._lines = self._read_metadata(metadata) if metadata.is_file() else self._read_tree()
        if not self._lines:
            raise UserError(
                f"corpus folder {folder} holds no .wav or .flac file; put recordings there, each "
                "beside a .txt of the same name"
            )

    def _read_tree(self) -> dict[str, tuple[Path, str]]:
        lines = {}
        for path in sorted(self._folder.rglob("*")):
            if path.suffix.lower() in _SUFFIXES and path.is_file():
                self._check_inside(path)
                relative = path.relative_to(self._folder)
                # A file name need not be UTF-8, an id is.
                name = os.fsencode(relative).decode("utf-8", "backslashreplace")
                lines[f"{self.name}/{name}"] = path, self._read_text(path)
        return lines

    def _read_text(self, path: Path) -> str:
        beside = path.with_suffix(".txt")
        if not beside.is_file():
            return ""
        try:
            if beside.stat().st_size > _MAX_TEXT_BYTES:
                raise ValueError("longer than 64 KiB")
            return " ".join(beside.read_text(encoding="utf-8-sig").split())
        except (OSError, ValueError) as error:  # UnicodeDecodeError is a ValueError
            log(f"{beside} is taken for no text: {error}")
            return ""

    def _read_metadata(self, metadata: Path) -> dict[str, tuple[Path, str]]:
        lines = {}
        try:
            with metadata.open(encoding="utf-8-sig", newline="") as file:
                for row in csv.reader(file, delimiter="|", quoting=csv.QUOTE_NONE):
                    if row and row[0].strip():
                        name = row[0].strip().removesuffix(".wav")
                        path = self._folder / "wavs" / f"{name}.wav"
                        self._check_inside(path)
                        text = row[-1] if len(row) > 1 else ""
                        lines[f"{self.name}/{name}"] = path, " ".join(text.split())
        except (OSError, ValueError, csv.Error) as error:
            raise UserError(f"cannot read {metadata}: {error}; save it as UTF-8") from error
        return lines

    def _check_inside(self, path: Path) -> None:
        if not path.resolve().is_relative_to(self._folder):
            raise UserError(f"{path} leads out of the corpus folder {self._folder}; copy it inside")

    def utterances(self) -> list[Utterance]:
        """One utterance a recording, in the order of their names (or of ``metadata.csv``)."""
        return [
            Utterance(
                id=id,
                text=text,
                speaker=self._speaker(path),
                language=self.language,
                licence=self.licence,
                kind="recorded",
                split=split_of(id, text),
            )
            for id, (path, text) in self._lines.items()
        ]

    @property
    def version(self) -> str:
        """Sizes and times of the recordings."""
        return files_version(path for path, _ in self._lines.values())

    def _speaker(self, path: Path) -> str:
        parts = path.relative_to(self._folder).parts
        in_folder = len(parts) > 1 and not (self._folder / "metadata.csv").is_file()
        return f"{self.name}-{parts[0]}" if in_folder else self.name

    def read(self, utterance: Utterance) -> tuple[np.ndarray, int]:
        """The wave, float32 [samples], and its sample rate; UserError when it is broken."""
        return read_audio(self._lines[utterance.id][0])
