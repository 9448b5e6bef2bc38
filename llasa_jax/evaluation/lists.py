"""Lists of what is to be spoken or heard, and what is wrong with them.

A line of a list is seed-tts-eval's, fields with a bar between them, paths from the list's folder:

    id|text
    id|text|recording of the voice
    id|prompt text|prompt recording|text
    id|prompt text|prompt recording|text|recording of the text

A folder of LibriSpeech or of ESD is a list as well. Lines of no use are named with a reason.
"""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import soundfile

from llasa_jax.errors import UserError
from llasa_jax.metrics import seed_tts
from llasa_jax.metrics.seed_tts import Language

SETS = Path(__file__).parent / "sets"
BUILT_IN = ("understanding-en", "understanding-zh")
MAX_BYTES, MAX_TEXT = 1 << 26, 5000
ID = re.compile(r"[\w-][\w.-]{0,199}")
HAN = re.compile("[\u4e00-\u9fff]")
PREFIX_SECONDS = 3.0  # of an utterance that is continued
CONTINUED = (4.0, 10.0)  # seconds of those that are, as in VALL-E (Wang et al. 2023)
ESD_PAIRS = 4  # of each of ESD's speakers and emotions


@dataclass(frozen=True)
class Item:
    """One line.

    Attributes:
        prompt, prompt_text: the recording whose voice is to speak, and what it says; None: a voice
            of the model's own.
        truth: a recording of the text, if there is one.
    """

    id: str
    text: str
    prompt_text: str = ""
    prompt: Path | None = None
    truth: Path | None = None

    @property
    def category(self) -> str:
        """What a built-in set's line is about: its id without the number."""
        return self.id.rpartition("-")[0]

    @property
    def spoken(self) -> tuple[Path | None, str]:
        """A recording and what it says: of the text if there is one, else the prompt's own."""
        if self.truth is not None:
            return self.truth, self.text
        return self.prompt, self.prompt_text or self.text


@dataclass(frozen=True)
class Refused:
    """A line of no use: its number from 1, its id if it has one, and why."""

    line: int
    id: str
    reason: str


@dataclass(frozen=True)
class EvalSet:
    """A list, read.

    Attributes:
        continues: the prompts are the beginnings of the texts' own recordings: so many seconds of
            them are given, and all of the text. None: each prompt is another utterance.
    """

    name: str
    language: Language
    items: list[Item]
    refused: list[Refused]
    continues: float | None = None

    @property
    def hash(self) -> str:
        """Sixteen hexadecimal digits that name what it asks for; recordings by their names."""
        rows = [
            "|".join([one.id, one.prompt_text, one.prompt.name if one.prompt else "", one.text])
            for one in self.items
        ]
        return hashlib.sha256("\n".join([self.language, *rows]).encode()).hexdigest()[:16]

    def first(self, count: int | None) -> "EvalSet":
        """The set of the first `count` lines of use."""
        return replace(self, items=self.items[:count])


def read_set(what: str, language: Language | None = None) -> EvalSet:
    """A built-in set by its name, a list by its file, or a folder of LibriSpeech or ESD.

    Args:
        language: of all its texts; None: Chinese where most texts have a Chinese character.

    Raises:
        UserError: there is no such list, or no line of it is of use.
    """
    path = SETS / f"{what}.lst" if what in BUILT_IN else Path(what)
    if path.is_dir():
        rows, continues = _folder(path)
        name = path.name
    elif path.is_file():
        rows, continues = _lines(path), None
        name = path.stem if path.parent.name in ("", ".") else f"{path.parent.name}-{path.stem}"
        name = what if what in BUILT_IN else name
    else:
        known = ", ".join(BUILT_IN)
        raise UserError(f"{what}: no such list or folder; built in are: {known}")
    items, refused, seen = [], [], set()
    for number, row in rows:
        if isinstance(row, str):
            refused.append(Refused(number, "", row))
        elif reason := _wrong(row, seen):
            refused.append(Refused(number, row.id, reason))
        else:
            seen.add(row.id)
            items.append(row)
    if not items:
        reasons = f" ({refused[0].line}: {refused[0].reason})" if refused else ""
        raise UserError(f"{what}: no line of use among {len(refused)}{reasons}; see --help")
    if language is None:
        chinese = sum(bool(HAN.search(item.text)) for item in items)
        language = "zh" if 2 * chinese > len(items) else "en"
    return EvalSet(name, language, items, refused, continues)


def _wrong(item: Item, seen: set[str]) -> str:
    """Why an item is of no use; empty if it is."""
    if not ID.fullmatch(item.id):
        return f"its id {item.id[:40]!r} is no name for a file"
    if item.id in seen:
        return "its id stands on an earlier line, too"
    if not seed_tts.normalise(item.text, "en").strip():
        return "its text is empty"
    if len(item.text) > MAX_TEXT:
        return f"its text has {len(item.text)} characters, at most {MAX_TEXT}"
    return ""


def _lines(path: Path) -> Iterator[tuple[int, Item | str]]:
    """The items of a list by the numbers of their lines; of a line that is none, why."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UserError(f"{path}: is over {MAX_BYTES >> 20} MiB; split it")
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as text ({error}); check it") from error
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield number, _item(line.strip(), path.parent)


def _item(line: str, folder: Path) -> Item | str:
    fields = [field.strip() for field in line.split("|")]
    name = fields[0]
    at = lambda place: folder / fields[place]  # noqa: E731 (an absolute path stays one)
    if len(fields) == 2:
        return Item(name, fields[1])
    if len(fields) == 3:
        return Item(name.removesuffix(".wav"), fields[1], prompt=at(2))
    if len(fields) == 4:
        return Item(name, fields[3], fields[1], at(2))
    if len(fields) == 5:
        return Item(name, fields[3], fields[1], at(2), at(4))
    return f"has {len(fields)} fields; a line has from 2 to 5 with | between them"


def _folder(folder: Path) -> tuple[Iterator[tuple[int, Item | str]], float | None]:
    """What a folder of a known layout holds, and the seconds of each that are given, if so."""
    transcripts = sorted(folder.rglob("*.trans.txt"))
    if transcripts:
        return _librispeech(transcripts), PREFIX_SECONDS
    speakers = [one for one in sorted(folder.iterdir()) if (one / f"{one.name}.txt").is_file()]
    if speakers:
        return _esd(speakers), None
    raise UserError(
        f"{folder}: has neither LibriSpeech's *.trans.txt nor ESD's 0001/0001.txt; give a list"
    )


def _librispeech(transcripts: list[Path]) -> Iterator[tuple[int, Item | str]]:
    """Utterances of 4 to 10 s of a subset of LibriSpeech, to be continued after 3 s."""
    number = 0
    for path in transcripts:
        for line in path.read_text(encoding="utf-8").splitlines():
            number += 1
            name, _, text = line.strip().partition(" ")
            wave = path.with_name(f"{name}.flac")
            try:
                seconds = soundfile.info(wave).duration
            except (soundfile.LibsndfileError, OSError):
                yield number, f"{name}: no readable recording {wave.name}"
                continue
            if CONTINUED[0] <= seconds <= CONTINUED[1]:
                yield number, Item(name, text.lower(), "", wave, wave)


def _esd(speakers: list[Path]) -> Iterator[tuple[int, Item | str]]:
    """Pairs of ESD: the first recordings of each speaker and emotion, each asked to say the next
    one's sentence, whose own recording is the truth."""
    number = 0
    for speaker in speakers:
        rows: dict[str, list[tuple[str, str]]] = {}
        for line in (speaker / f"{speaker.name}.txt").read_text(encoding="utf-8").splitlines():
            fields = [field.strip() for field in line.split("\t") if field.strip()]
            number += 1
            if len(fields) == 3:
                rows.setdefault(fields[2], []).append((fields[0], fields[1]))
            elif fields:
                yield number, f"{speaker.name}: has {len(fields)} fields, ESD's lines have 3"
        for emotion, own in sorted(rows.items()):
            for (prompt, said), (name, text) in zip(own, own[1 : ESD_PAIRS + 1], strict=False):
                folder = speaker / emotion
                waves = folder / f"{prompt}.wav", folder / f"{name}.wav"
                yield number, Item(f"{emotion}-{name}", text, said, *waves)
