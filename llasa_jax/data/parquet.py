"""Hugging Face audio datasets as Parquet files: a column of {bytes, path} beside the texts."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow
from pyarrow import parquet

from llasa_jax.audio.io import decode_audio
from llasa_jax.console import log
from llasa_jax.data.utterance import Split, Utterance, files_version, split_of
from llasa_jax.errors import UserError

# The names that published datasets give their columns, the preferred first.
AUDIO = ("audio", "speech")
TEXT = ("text_normalized", "normalized_text", "text", "sentence", "transcription", "transcript")
SPEAKER = ("speaker_id", "speaker", "client_id")
LANGUAGE = ("language", "lang", "locale")
MAX_GROUP_BYTES = 4 << 30
MAX_AUDIO_BYTES = 512 << 20
MAX_TEXT_BYTES = 64 << 10
MAX_ROWS = 1 << 22  # of a file


class ParquetCorpus:
    """The rows of all `*.parquet` files below a folder.

    An utterance's id is `corpus/file/row`. Files called `train...`, `validation...`, `dev...` or
    `test...` give their rows that split, if there are at least two kinds of them.
    """

    def __init__(self, folder: Path, language: str = "en", licence: str = "the user's own") -> None:
        self._folder = folder.resolve()
        self.name = self._folder.name or "parquet"
        self.language = language
        self.licence = licence
        self.rejects: list[tuple[str, str]] = []
        self._files = {
            path.relative_to(self._folder).with_suffix("").as_posix(): path
            for path in sorted(self._folder.rglob("*.parquet"))
        }
        if not self._files:
            raise UserError(f"corpus folder {folder} holds no .parquet file; check the path")
        splits = {_file_split(name) for name in self._files}
        self._by_file = len(splits) > 1 and None not in splits

    @property
    def version(self) -> str:
        """Sizes and times of the files."""
        return files_version(self._files.values())

    def utterances(self) -> list[Utterance]:
        """One utterance a row, in the order of the files; their audio is not read."""
        self.rejects = []
        found = []
        for name, path in self._files.items():
            try:
                found += self._of_file(name, path)
            except (pyarrow.ArrowException, OSError, ValueError) as error:
                self.rejects.append((str(path), f"unreadable ({error})"))
        for place, reason in self.rejects:
            log(f"left out {place}: {reason}")
        return found

    def _of_file(self, name: str, path: Path) -> list[Utterance]:
        found = []
        with parquet.ParquetFile(path) as file:
            columns = file.schema_arrow.names
            _audio_column(file, path)
            text, speaker, language = (
                _first(columns, names) for names in (TEXT, SPEAKER, LANGUAGE)
            )
            taken = [column for column in (text, speaker, language) if column]
            if not 0 <= file.metadata.num_rows <= MAX_ROWS:
                raise ValueError(f"says {file.metadata.num_rows} rows, over {MAX_ROWS}; split it")
            rows = file.iter_batches(columns=taken) if taken else ()
            said = [one for batch in rows for one in batch.to_pylist()]
            for row, one in enumerate(said or [{}] * file.metadata.num_rows):
                words = " ".join(str(one.get(text) or "").split())
                if len(words.encode()) > MAX_TEXT_BYTES:
                    self.rejects.append((f"{path}: row {row}", "a text of over 64 KiB"))
                    continue
                who, tongue = one.get(speaker), one.get(language)
                found.append(self._utterance(name, row, words, who, tongue))
        return found

    def _utterance(
        self, file: str, row: int, text: str, speaker: object, language: object
    ) -> Utterance:
        id = f"{self.name}/{file}/{row}"
        return Utterance(
            id=id,
            text=text,
            speaker=self.name if speaker is None else f"{self.name}-{speaker}",
            language=str(language or self.language),
            licence=self.licence,
            kind="recorded",
            split=_file_split(file) if self._by_file else split_of(id, text),
        )

    def read(self, utterance: Utterance) -> tuple[np.ndarray, int]:
        """The wave, float32 [samples], and its sample rate; UserError when it is broken."""
        name, _, row = utterance.id.removeprefix(f"{self.name}/").rpartition("/")
        if name not in self._files or not row.isdecimal():
            raise UserError(f"{utterance.id}: not in the files of {self._folder}")
        path = self._files[name]
        try:
            starts = self._starts(name)
            group = int(np.searchsorted(starts, int(row), side="right")) - 1
            audio = self._group(name, group)[int(row) - int(starts[group])].as_py() or {}
        except (pyarrow.ArrowException, OSError, ValueError, IndexError) as error:
            raise UserError(f"cannot read row {row} of {path}: {error}; fetch it again") from error
        data = audio.get("bytes")
        if not isinstance(data, bytes) or not data:
            raise UserError(f"row {row} of {path} holds no audio, only a path; embed the bytes")
        if len(data) > MAX_AUDIO_BYTES:
            raise UserError(f"row {row} of {path} is over 512 MiB; cut it first")
        return decode_audio(data, f"{path}: row {row}")

    @lru_cache(maxsize=64)  # noqa: B019  (corpora live as long as their process)
    def _starts(self, name: str) -> np.ndarray:
        """First row of each row group."""
        with parquet.ParquetFile(self._files[name]) as file:
            meta = file.metadata
            sizes = [meta.row_group(i).num_rows for i in range(meta.num_row_groups)]
        return np.cumsum([0, *sizes[:-1]])

    @lru_cache(maxsize=4)  # noqa: B019  (neighbours are read after one another)
    def _group(self, name: str, group: int) -> pyarrow.ChunkedArray:
        with parquet.ParquetFile(self._files[name]) as file:
            size = file.metadata.row_group(group).total_byte_size
            if size > MAX_GROUP_BYTES:
                raise ValueError(f"a row group of {size} bytes")
            column = _audio_column(file, self._files[name])
            return file.read_row_group(group, columns=[column]).column(0)


def _audio_column(file: parquet.ParquetFile, path: Path) -> str:
    """Name of the column of audio.

    Raises:
        ValueError: there is none of a struct with `bytes`.
    """
    schema = file.schema_arrow
    named = _first(schema.names, AUDIO)
    for name in [named] if named else schema.names:
        kind = schema.field(name).type
        if pyarrow.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
            return name
    raise ValueError(f"no column of audio with bytes in {path.name}")


def _first(columns: Sequence[str], names: Sequence[str]) -> str | None:
    return next((name for name in names if name in columns), None)


def _file_split(name: str) -> Split | None:
    parts = name.lower().replace("-", "/").replace("_", "/").split("/")
    known = {
        "train": "train",
        "validation": "valid",
        "valid": "valid",
        "dev": "valid",
        "test": "test",
    }
    return next((known[part] for part in parts if part in known), None)
