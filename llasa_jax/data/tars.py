"""WebDataset tars as Emilia ships them: `NAME.mp3` beside `NAME.json` in each archive.

Archives come from strangers: nothing is unpacked, links and devices are never followed, members are
read at their place in the file and bounded in size.
"""

import json
import tarfile
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from llasa_jax.audio.io import decode_audio
from llasa_jax.console import log
from llasa_jax.data.utterance import Utterance, files_version, split_of
from llasa_jax.errors import UserError

AUDIO = (".mp3", ".flac", ".wav", ".ogg", ".opus")
TEXT = (".json", ".txt")
MAX_AUDIO_BYTES = 512 << 20
MAX_TEXT_BYTES = 64 << 10
MAX_MEMBERS = 1 << 20  # of an archive


class Member(NamedTuple):
    """Where a file's bytes stand in its archive."""

    suffix: str
    start: int
    size: int


class TarCorpus:
    """The recordings in all `*.tar` files below a folder.

    An utterance's id is `corpus/archive/key`. Of its `.json`, `text`, `speaker` and `language` are
    taken; a `.txt` is all text.
    """

    def __init__(self, folder: Path, language: str = "en", licence: str = "the user's own") -> None:
        self._folder = folder.resolve()
        self.name = self._folder.name or "tars"
        self.language = language
        self.licence = licence
        self.rejects: list[tuple[str, str]] = []
        self._archives = {
            path.relative_to(self._folder).with_suffix("").as_posix(): path
            for path in sorted(self._folder.rglob("*.tar"))
        }
        if not self._archives:
            raise UserError(f"corpus folder {folder} holds no .tar file; check the path")

    @property
    def version(self) -> str:
        """Sizes and times of the archives."""
        return files_version(self._archives.values())

    def utterances(self) -> list[Utterance]:
        """One utterance a recording, in the order of the archives and of their members."""
        self.rejects = []
        found = []
        for name, path in self._archives.items():
            index = read_index(path)
            self.rejects += [(f"{path}: {place}", reason) for place, reason in index.rejects]
            with path.open("rb") as file:
                for key, members in index.keys.items():
                    one = self._utterance(f"{self.name}/{name}/{key}", file, members)
                    if isinstance(one, str):
                        self.rejects.append((f"{path}: {key}", one))
                    else:
                        found.append(one)
        for place, reason in self.rejects:
            log(f"left out {place}: {reason}")
        return found

    def _utterance(self, id: str, file: Any, members: list[Member]) -> Utterance | str:
        """The utterance, or why there is none."""
        if not any(member.suffix in AUDIO for member in members):
            return "no recording beside the text"
        about: dict[str, Any] = {}
        for member in members:
            if member.suffix in TEXT:
                if member.size > MAX_TEXT_BYTES:
                    return "a text of over 64 KiB"
                file.seek(member.start)
                try:
                    text = file.read(member.size).decode("utf-8-sig")
                    about |= json.loads(text) if member.suffix == ".json" else {"text": text}
                except UnicodeDecodeError:
                    return "a text that is no UTF-8"
                except (ValueError, TypeError, RecursionError):
                    return "a .json that holds no object"
        text, speaker, language = (_word(about.get(n)) for n in ("text", "speaker", "language"))
        return Utterance(
            id=id,
            text=text,
            speaker=f"{self.name}-{speaker}" if speaker else self.name,
            language=language or self.language,
            licence=self.licence,
            kind="recorded",
            split=split_of(id, text),
        )

    def read(self, utterance: Utterance) -> tuple[np.ndarray, int]:
        """The wave, float32 [samples], and its sample rate; UserError when it is broken."""
        place = utterance.id.removeprefix(f"{self.name}/")
        name = max((n for n in self._archives if place.startswith(f"{n}/")), key=len, default=None)
        members = [] if name is None else self._index(name).get(place[len(name) + 1 :], [])
        for member in members:
            if member.suffix in AUDIO:
                if member.size > MAX_AUDIO_BYTES:
                    raise UserError(f"{utterance.id}: over 512 MiB; cut it first")
                with self._archives[name].open("rb") as file:
                    file.seek(member.start)
                    data = file.read(member.size)
                if len(data) < member.size:
                    raise UserError(f"{self._archives[name]} is truncated; fetch it again")
                return decode_audio(
                    data, f"{self._archives[name]}: {place[len(name) + 1 :]}{member.suffix}"
                )
        raise UserError(f"{utterance.id}: not in the archives of {self._folder}")

    @lru_cache(maxsize=8)  # noqa: B019  (archives of one worker's items; corpora live as long)
    def _index(self, name: str) -> dict[str, list[Member]]:
        return read_index(self._archives[name]).keys


class Index(NamedTuple):
    """What an archive holds: members by key, and (place, reason) of those not taken."""

    keys: dict[str, list[Member]]
    rejects: list[tuple[str, str]]


def read_index(path: Path) -> Index:
    """The members of an archive that are plain files inside it; headers are read, no contents.

    Raises:
        UserError: the file is no tar at all, or has over a million members.
    """
    index = Index({}, [])
    try:
        for member in _members(path):
            name, reason = _safe_name(member)
            if reason:
                index.rejects.append((repr(member.name)[:200], reason))
            elif member.isfile() and name.suffix.lower() in AUDIO + TEXT:
                one = Member(name.suffix.lower(), member.offset_data, member.size)
                index.keys.setdefault(name.with_suffix("").as_posix(), []).append(one)
    except (tarfile.TarError, EOFError, ValueError, ArithmeticError) as error:
        if not index.keys:
            raise UserError(f"{path} is no readable tar ({error}); fetch it again") from error
        index.rejects.append(("its end", f"truncated ({error})"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; check the path") from error
    return index


def _members(path: Path) -> Iterator[tarfile.TarInfo]:
    with tarfile.open(path, "r:") as archive:  # "r:": never compressed, so that members have places
        for number, member in enumerate(archive):
            if number == MAX_MEMBERS:
                raise UserError(f"{path} has over {MAX_MEMBERS} members; split it")
            archive.members = []  # it would remember all of them
            yield member


def _safe_name(member: tarfile.TarInfo) -> tuple[PurePosixPath, str]:
    """The member's path, and why it is refused ("": it is not)."""
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts or "\0" in member.name or not path.parts:
        return path, "a path that leaves the archive"
    if member.issym() or member.islnk():
        return path, "a link"
    if member.size < 0:
        return path, "a size below zero"
    return path, "" if member.isdir() or member.isreg() else "no plain file"


def _word(value: object) -> str:
    """A text or number of a `.json` on one line; "" for anything else."""
    return " ".join(str(value).split()) if type(value) in (str, int, float) else ""
