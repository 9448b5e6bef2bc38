"""Recorded speech inside Debian packages: telephone prompts, dialogues of games, spoken words.

Some voices and one language are held out: all they say is in the test split of every corpus, so
that a codec trained on the training split has never heard them.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import soundfile

from llasa_jax.audio.io import read_audio
from llasa_jax.data.debian import fetch_packages
from llasa_jax.data.text import has_letters
from llasa_jax.data.utterance import Utterance, split_of
from llasa_jax.errors import UserError

HELD_OUT_SPEAKERS = {"june"}
HELD_OUT_LANGUAGES = {"it"}
MIN_RATE = 16_000  # a recording with fewer samples a second lacks the upper half of the spectrum


def _recorded(id: str, speaker: str, language: str, licence: str, text: str = "") -> Utterance:
    held_out = speaker in HELD_OUT_SPEAKERS or language in HELD_OUT_LANGUAGES
    return Utterance(
        id=id,
        text=text,
        speaker=speaker,
        language=language,
        licence=licence,
        kind="recorded",
        split="test" if held_out else split_of(id, text),
    )


class AsteriskCorpus:
    """Telephone prompts at 16 kHz by one speaker, without text (Creative Commons)."""

    version = ""
    rejects = ()
    SPEAKERS = {"en": "allison", "es": "allison", "fr": "june", "it": "carlo", "ru": "ivrvoice"}
    _ATTRIBUTION = {"it", "ru"}  # the others are under "share alike"
    # No speech in them: tones, monkeys.
    _NOISES = {
        "ascending-2tone",
        "beep",
        "beeperr",
        "confbridge-join",
        "confbridge-leave",
        "descending-2tone",
        "tt-monkeys",
    }

    def __init__(self, language: str, cache: Path) -> None:
        self.name = f"asterisk-{language}"
        self.language = language
        (root,) = fetch_packages([f"asterisk-core-sounds-{language}-g722"], cache)
        self._folder = next(root.glob(f"usr/share/asterisk/sounds/{language}*"))

    def _path(self, id: str) -> Path:
        return self._folder / f"{id.removeprefix(self.name + '/')}.g722"

    def utterances(self) -> list[Utterance]:
        """One utterance a prompt, silence and noises left out."""
        licence = "CC BY 3.0" if self.language in self._ATTRIBUTION else "CC BY-SA 3.0"
        found = []
        for path in sorted(self._folder.rglob("*.g722")):
            name = path.relative_to(self._folder).with_suffix("").as_posix()
            if not name.startswith("silence/") and name not in self._NOISES:
                speaker = self.SPEAKERS[self.language]
                found.append(_recorded(f"{self.name}/{name}", speaker, self.language, licence))
        return found

    def read(self, utterance: Utterance) -> tuple[np.ndarray, int]:
        """The wave, float32 [samples], and its sample rate."""
        return read_audio(self._path(utterance.id))


class FilletsCorpus:
    """Dialogues of the game Fish Fillets with line-exact text, Dutch or Czech (GPL-2).

    The recording ``sound/<level>/<language>/<id>.ogg`` says the ``dialogStr`` that follows
    ``dialogId("<id>", "font_<who>", ...)`` in ``script/<level>/dialogs_<language>.lua``. The font
    of the line tells who speaks: the small fish, the big fish, or one of many minor parts.
    """

    version = ""
    rejects = ()
    _DIALOG = re.compile(
        r'dialogId\(\s*"([\w-]+)",\s*"font_(\w+)"[^\n]*\)\s*'
        r'dialogStr\(\s*"((?:[^"\\]|\\.)*)"\s*\)'
    )

    def __init__(self, language: Literal["nl", "cs"], cache: Path) -> None:
        self.name = f"fillets-{language}"
        self.language = language
        roots = fetch_packages(["fillets-ng-data", f"fillets-ng-data-{language}"], cache)
        scripts, sounds = (root / "usr/share/games/fillets-ng" for root in roots)
        self._lines: dict[str, tuple[Path, str, str]] = {}  # recording, who, text
        for script in sorted(scripts.glob(f"script/*/dialogs_{language}.lua")):
            level = script.parent.name
            for id, who, text in self._DIALOG.findall(script.read_text(encoding="utf-8")):
                path = sounds / "sound" / level / language / f"{id}.ogg"
                text = re.sub(r"\\(.)", r"\1", text).strip()
                if has_letters(text) and path.is_file():
                    who = who if who in ("small", "big") else "other"
                    self._lines[f"{self.name}/{level}/{id}"] = path, who, text

    def utterances(self) -> list[Utterance]:
        """One utterance a line that has both a recording and speakable text."""
        return [
            _recorded(id, f"{self.name}-{who}", self.language, "GPL-2", text)
            for id, (_, who, text) in self._lines.items()
        ]

    def read(self, utterance: Utterance) -> tuple[np.ndarray, int]:
        """The wave, float32 [samples], and its sample rate."""
        return read_audio(self._lines[utterance.id][0])


@dataclass(frozen=True)
class Collection:
    """Where a package keeps short recordings of speech.

    Attributes:
      package: its name.
      folder: of the recordings, below the package's root.
      files: regular expression of their paths below the folder. A group "voice" names the voice,
        a group "language" the language; without the first there is one voice a language.
      licence: of the recordings.
      language: of the recordings whose path names none.
    """

    package: str
    folder: str
    files: str
    licence: str
    language: str = "en"


COLLECTIONS = {
    # Letters and syllables in 21 languages.
    "klettres": Collection(
        "klettres-data",
        "usr/share/klettres",
        r"(?P<voice>(?P<language>[a-z]{2,3})(?:_[A-Z]{2})?)/(?:alpha|syllab)/.+\.ogg",
        "GPL-2+",
    ),
    # Names of parts of faces, fruit and clothes; the folders with "@" hold copies.
    "ktuberling": Collection(
        "ktuberling-data",
        "usr/share/ktuberling/sounds",
        r"(?P<language>[a-z]{2,3})/.+\.(?:ogg|opus|wav)",
        "GPL-2+",
    ),
    # Descriptions of pictures, words to short sentences, read by volunteers.
    "tuxpaint": Collection(
        "tuxpaint-stamps-default",
        "usr/share/tuxpaint/stamps",
        r".+_desc(?:_(?P<language>[a-z]{2}))?\.ogg",
        "GPL-2",
    ),
    # Exclamations; the left-out voices are a vocoder and a singer.
    "hedgewars": Collection(
        "hedgewars-data",
        "usr/share/games/hedgewars/Data/Sounds/voices",
        r"(?P<voice>(?!Robot|Singer)[A-Za-z]+(?:_(?P<language>[a-z]{2}))?)/.+\.ogg",
        "GFDL-1.3",
    ),
    # Mandarin syllables by two voices.
    "gcin": Collection(
        "gcin-voice",
        "usr/share/gcin-voice/ogg",
        r".+/(?P<voice>[35])\.ogg",
        "LGPL-3 (voice 3), CC BY 3.0 (voice 5)",
        language="zh",
    ),
}


class CollectedCorpus:
    """The recordings of one of the `COLLECTIONS`, without text."""

    version = ""
    rejects = ()

    def __init__(self, name: str, cache: Path) -> None:
        self.name = name
        self._collection = COLLECTIONS[name]
        (root,) = fetch_packages([self._collection.package], cache)
        self._folder = root / self._collection.folder

    def utterances(self) -> list[Utterance]:
        """One utterance a recording of at least 16 kHz, in the order of their paths."""
        pattern, found = re.compile(self._collection.files), []
        for path in sorted(self._folder.rglob("*")):
            relative = path.relative_to(self._folder).as_posix()
            match = pattern.fullmatch(relative)
            if match and not path.is_symlink() and _rate(path) >= MIN_RATE:
                groups = match.groupdict()
                language = groups.get("language") or self._collection.language
                speaker = f"{self.name}-{groups.get('voice') or language}"
                id = f"{self.name}/{relative}"
                found.append(_recorded(id, speaker, language, self._collection.licence))
        return found

    def read(self, utterance: Utterance) -> tuple[np.ndarray, int]:
        """The wave, float32 [samples], and its sample rate."""
        return read_audio(self._folder / utterance.id.removeprefix(f"{self.name}/"))


def _rate(path: Path) -> int:
    try:
        return soundfile.info(path).samplerate
    except (OSError, soundfile.LibsndfileError) as error:
        raise UserError(
            f"cannot read {path} ({error}); delete its package's folder to fetch it again"
        ) from error
