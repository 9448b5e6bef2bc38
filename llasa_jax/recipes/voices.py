"""Named voices: small files of what somebody said, codes and text, from which a model speaks on.

A voice belongs to one codec. A model folder keeps its own under `voices/`; what a user adds to the
shipped model lies beside it, below `voices_home`.
"""

import json
import os
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from llasa_jax.audio.io import decode_audio, read_audio
from llasa_jax.codec.batch import BatchCodec
from llasa_jax.console import log
from llasa_jax.data.store import WaveStore, level, trim_silence
from llasa_jax.errors import UserError
from llasa_jax.interop.bundle import part_hash
from llasa_jax.metrics.text import normalise
from llasa_jax.recipes import stages
from llasa_jax.search.engine import Prompt
from llasa_jax.verifiers.protocol import Candidates, Verifier
from llasa_jax.verifiers.recogniser import BatchRecogniser, content_verifier
from llasa_jax.verifiers.speaker import speaker_verifier

VERSION = 1
SHORTEST, LONGEST = 1.0, 15.0  # seconds of a prompt
BEST_SECONDS = 2.5  # of a prompt that is chosen out of a corpus
SYNTHETIC = "a synthetic voice"  # stands where a person's consent would
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,39}")
MAX_BYTES = 1 << 20


@dataclass(frozen=True)
class NamedVoice:
    """A voice.

    Attributes:
        embedding: of the model's speaker encoder, unit length [E].
        text, codes: what its prompt says, and as which codes; without codes it has none, and only
            the speaker verifier brings takes near to it.
        consent: by whom the use of the voice was agreed to.
    """

    name: str
    embedding: list[float]
    text: str = ""
    codes: list[int] = field(default_factory=list)
    consent: str = ""

    @property
    def prompt(self) -> Prompt | None:
        return Prompt(self.text, np.array(self.codes, np.int32)) if self.codes else None


def voices_home(codec: str) -> Path:
    """Where a user's voices for the codec of this hash are: below ``$LLASA_JAX_VOICES``, else
    ``~/.local/share/llasa_jax/voices``."""
    home = os.environ.get("LLASA_JAX_VOICES")
    return (Path(home) if home else Path.home() / ".local/share/llasa_jax/voices") / codec


def load_voices(model: Path) -> dict[str, NamedVoice]:
    """The voices of a model folder and those that the user added, by name, in their order.

    Raises:
        UserError: a file is damaged or belongs to another codec.
    """
    codec = part_hash(model, "codec")
    folders = [model / "voices", voices_home(codec)]
    paths = [path for folder in folders for path in sorted(folder.glob("*.json"))]
    return {path.stem: _read_voice(path, codec) for path in paths}


def _read_voice(path: Path, codec: str) -> NamedVoice:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError("over 1 MiB")
        found = json.loads(path.read_text(encoding="utf-8"))
        version, made_by = found.pop("version"), found.pop("codec")
        voice = NamedVoice(**found)
        texts = [voice.name, voice.text, voice.consent]
        whole = all(isinstance(one, str) for one in texts) and voice.name == path.stem
        whole &= isinstance(voice.codes, list) and isinstance(voice.embedding, list)
        whole &= all(type(code) is int and 0 <= code < 2**31 for code in voice.codes)
        whole &= all(type(one) in (int, float) for one in voice.embedding)
        if version != VERSION or not whole:
            raise ValueError("not as `llasa voices add` writes it")
        with np.errstate(over="ignore"):
            if not np.isfinite(np.array(voice.embedding, np.float32)).all():
                raise ValueError("its embedding is not finite")
    except (
        OSError,
        LookupError,
        ValueError,
        TypeError,
        AttributeError,
        ArithmeticError,
        RecursionError,
    ) as error:
        raise UserError(f"{path}: no readable voice ({error}); add it again") from error
    if made_by != codec:
        raise UserError(f"{path}: made with codec {made_by}, not {codec}; add it again")
    return voice


def save_voice(folder: Path, voice: NamedVoice, codec: str) -> Path:
    """Writes `NAME.json` into a folder, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{voice.name}.json"
    stages.write_json(path, {"version": VERSION, "codec": codec} | asdict(voice))
    return path


class VoiceMaker:
    """Makes voices for the model in a folder: codes, embedding, and a look at the text."""

    def __init__(self, model: Path):
        self.codec: BatchCodec = stages.load_codec(model)
        config, params, _ = stages.load_speaker(model)
        self.speaker: Verifier = speaker_verifier(config, params, "speaker")
        self._recogniser = stages.load_recogniser(model, "recogniser")
        self.content: Verifier = content_verifier(*self._recogniser)

    def from_recording(self, path: Path, text: str, name: str, consent: str) -> NamedVoice:
        """The voice of a recording of 1 to 15 s in which `text` is said.

        Raises:
            UserError: the recording is too short, too long or silent, or says something else.
        """
        rate = self.codec.config.sample_rate
        wave = trim_silence(read_audio(path, rate)[0], rate)
        return self._checked(wave, text, name, consent, str(path))

    def from_bytes(self, data: bytes, text: str, name: str, consent: str) -> NamedVoice:
        """As `from_recording`, of a file's contents."""
        rate = self.codec.config.sample_rate
        wave = decode_audio(data, name, rate, longest=4 * LONGEST)[0]
        return self._checked(trim_silence(wave, rate), text, name, consent, name)

    def transcribe(self, path: Path) -> str:
        """What the recogniser hears in a recording; UserError as `from_recording`."""
        rate = self.codec.config.sample_rate
        wave = trim_silence(read_audio(path, rate)[0], rate)
        self._check_length(wave, str(path))
        return BatchRecogniser(*self._recogniser, batch=1).transcribe([level(wave)])[0]

    def _check_length(self, wave: np.ndarray, where: str) -> None:
        seconds = len(wave) / self.codec.config.sample_rate
        if not SHORTEST <= seconds <= LONGEST:
            raise UserError(
                f"{where}: has {seconds:.1f} s of speech; a prompt has {SHORTEST:g} to {LONGEST:g}"
            )

    def _checked(
        self, wave: np.ndarray, text: str, name: str, consent: str, where: str
    ) -> NamedVoice:
        self._check_length(wave, where)
        wave = level(wave)
        if not self.fits(wave, text):
            raise UserError(
                f"{where}: does not say {text[:60]!r}, as the recogniser hears it; give its own "
                "words with --prompt-text"
            )
        return self.from_wave(wave, text, name, consent)

    def from_wave(self, wave: np.ndarray, text: str, name: str, consent: str) -> NamedVoice:
        """The voice of a wave float32 [samples] that is level and without silence, unchecked."""
        codes = self.codec.encode([wave])[0].tolist()
        embedding = self.speaker.reference("", wave).tolist()
        return NamedVoice(name, embedding, text, codes, consent)

    def fits(self, wave: np.ndarray, text: str) -> bool:
        """Whether the recogniser finds a text likelier than the same letters backwards.

        So little is asked that it holds for voices which the recogniser hardly understands.

        Raises:
            UserError: the text has no letter that the recogniser knows.
        """
        said = normalise(text)
        unit = self.codec.config.sample_rate
        padded = np.pad(wave, (0, -len(wave) % unit))[None]
        candidates = Candidates(np.zeros((1, 1), np.int32), padded, np.array([len(wave)], np.int32))
        there, back = (
            float(self.content.score(self.content.params, candidates, target)[0])
            for target in (self.content.reference(t, None) for t in (said, said[::-1]))
        )
        return there > back

    def of_corpus(self, store: WaveStore) -> list[NamedVoice]:
        """A voice of each synthetic speaker, from a validation sentence of about 2.5 s.

        Raises:
            UserError: there is none.
        """
        valid = store.select(split="valid", kind="synthetic", with_text=True)
        speakers = sorted({store.utterances[i].speaker for i in valid})
        if not speakers:
            raise UserError(f"{store.folder}: has no synthetic speech; add a recording by its name")
        return [self._of_speaker(store, valid, speaker) for speaker in speakers]

    def _of_speaker(self, store: WaveStore, indices: Sequence[int], speaker: str) -> NamedVoice:
        own = [i for i in indices if store.utterances[i].speaker == speaker]
        best = min(own, key=lambda i: (abs(store.samples(i) / store.rate - BEST_SECONDS), i))
        one, wave = store[best]
        text = one.text if one.text.endswith((".", "!", "?")) else f"{one.text}."
        name = speaker.removeprefix("flite-")
        return self._checked(wave, text, name, SYNTHETIC, f"{store.folder}: {one.id}")


def add_voices(
    what: Path, *, name: str | None, text: str | None, consent: bool, model: Path | None
) -> list[str]:
    """Adds the voice of a recording, or one of each synthetic speaker of a prepared corpus.

    Args:
        what: a recording, or the folder of a prepared corpus.
        name, text: of a recording's voice, and what it says.
        consent: the speaker agreed to it; needed for a recording.
        model: folder that the voices are for and go to; None: the shipped one, and the user's own.

    Returns:
        Their names.

    Raises:
        UserError: something is missing, or as `VoiceMaker`.
    """
    folder = stages.model_folder(stages.shipped_model() if model is None else model)
    codec = part_hash(folder, "codec")
    place = voices_home(codec) if model is None else folder / "voices"
    if what.is_dir():
        made = VoiceMaker(folder).of_corpus(WaveStore.open(what))
    else:
        if name is None or not NAME.fullmatch(name):
            raise UserError(f"--name {name}: give a name of letters, digits, - and _")
        made = [recorded_voice(folder, what, name, text, consent)]
    for voice in made:
        save_voice(place, voice, codec)
    return [voice.name for voice in made]


def recorded_voice(
    model: Path, path: Path, name: str, text: str | None, consent: bool
) -> NamedVoice:
    """The voice of a recording for a model folder.

    Args:
        text: what it says; None: what the model's recogniser hears, which is told.

    Raises:
        UserError: without consent, if nothing is said, or as `VoiceMaker.from_recording`.
    """
    if not consent:
        raise UserError(f"{path}: a voice is a person's own; ask, then say so with --consent")
    maker = VoiceMaker(model)
    if text is None:
        text = maker.transcribe(path)
        log(f"{path}: heard {text!r}; if that is wrong, give its words with --prompt-text")
    if not text.strip():
        raise UserError(f"{path}: what does it say? give --prompt-text")
    return maker.from_recording(path, text, name, "given, as the user says")
