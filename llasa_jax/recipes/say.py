"""`llasa say`: a text into a file, to standard output or to the loudspeaker."""

import os
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from llasa_jax.audio.encode import FORMATS, encode, encoded
from llasa_jax.audio.joining import join
from llasa_jax.console import bar, log
from llasa_jax.errors import UserError
from llasa_jax.recipes import long, stages
from llasa_jax.recipes.provenance import marked, provenance, watermark
from llasa_jax.recipes.strategy import Search
from llasa_jax.recipes.voice import LEARNED_TEXT, Voice
from llasa_jax.recipes.voices import recorded_voice
from llasa_jax.text.english import read_aloud
from llasa_jax.verifiers.recogniser import BatchRecogniser

NORMALISERS: dict[str, Callable[[str], str]] = {"english": read_aloud, "none": str}
OUT = "-"
SLOTS = 64  # takes of several pieces at once
MAX_BYTES = 1 << 20  # of a text file


def read_text(path: str) -> str:
    """The text of a file, or of standard input where it is called "-".

    Raises:
        UserError: it cannot be read, is too large or no UTF-8.
    """
    try:
        if path == "-":
            data = sys.stdin.buffer.read(MAX_BYTES + 1)
        else:
            with open(path, "rb") as file:
                data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise UserError(f"{path}: has over {MAX_BYTES} bytes; split the text")
        return data.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as text ({error}); give UTF-8") from error


def load_voice(
    model: Path,
    search: Search,
    voice: str | None = None,
    prompt_text: str | None = None,
    consent: bool = False,
    slots: int = 1,
) -> tuple[Voice, str]:
    """What speaks, and the name of the voice: of a named one, a recording, or the usual one.

    Args:
        slots: at least so many takes are drawn at once.

    Raises:
        UserError: the model or the voice cannot be used.
    """
    speaker = Voice(model, slots=max(slots, search.width), verifiers=search.verifiers)
    if voice is not None and Path(voice).is_file():
        recorded = recorded_voice(speaker.folder, Path(voice), voice, prompt_text, consent)
        speaker.voices[voice] = recorded
    elif prompt_text is not None:
        raise UserError("--prompt-text: is of a recording, name its file with --voice")
    name = voice or speaker.usual
    speaker.named(name)
    return speaker, name


def say(
    text: str,
    *,
    model: Path,
    out: str | Path | None,
    search: Search,
    voice: str | None = None,
    seed: int = 0,
    normalise: str = "english",
    prompt_text: str | None = None,
    consent: bool = False,
    form: str | None = None,
    play: bool = False,
    mark: str | None = None,
) -> dict[str, Any]:
    """Speaks a text of any length and returns the record of all its searches.

    Args:
        out: a file, "-" for standard output, or None.
        voice: a name, or a recording of somebody who gave `consent`, whose words are
            `prompt_text`, or what the recogniser hears; None: the model's usual one.
        normalise: "english" reads numbers, dates, money and the like as words; "none" does not.
        form: of the sound; None: as the file's suffix says, of standard output wav.
        play: through the loudspeaker, while it is spoken.
        mark: the name of an installed watermark.

    Raises:
        UserError: text, model, voice or format cannot be used.
    """
    form = sound_format(out, form)
    loudspeaker = _loudspeaker() if play else None
    hidden = None if mark is None else watermark(mark)
    long.plan(text, long.MOST_CHARACTERS, NORMALISERS[normalise])  # refused before models are read
    slots = SLOTS if len(text) > LEARNED_TEXT and out != OUT and not play else 1
    speaker, name = load_voice(model, search, voice, prompt_text, consent, slots)
    tags, rate = provenance(speaker, name, seed), speaker.engine.rate

    def consume(sounds: Iterator[np.ndarray]) -> None:
        """Plays and writes the sounds as they come."""
        sounds = (marked(sound, rate, hidden) for sound in sounds)
        if loudspeaker:
            sounds = loudspeaker(sounds, rate)
        if out == OUT:
            _stream(encoded(sounds, rate, form, tags))
        else:
            deque(sounds, maxlen=0)

    speech = speak_text(
        speaker,
        text,
        name=name,
        search=search,
        seed=seed,
        normalise=normalise,
        consume=consume if play or out == OUT else None,
    )
    if out not in (None, OUT):
        write_file(Path(out), encode(marked(speech.wave, rate, hidden), rate, form, tags))
    record = describe(speech, name=name, search=search, seed=seed)
    return record | {"out": None if out is None else str(out), "watermark": mark}


def speak_text(
    speaker: Voice,
    text: str,
    *,
    name: str,
    search: Search,
    seed: int,
    normalise: str = "english",
    consume: Callable[[Iterator[np.ndarray]], None] | None = None,
) -> long.Speech:
    """A text of any length, spoken, heard and mended.

    Args:
        consume: takes the waves float32 [samples] of all pieces and pauses as they are spoken. What
            was heard by people is not mended any more, only reported.

    Raises:
        UserError: there is nothing to say, or as `long.speak`.
    """
    start = time.monotonic()
    found, parts = long.plan(text, speaker.limit(speaker.named(name)), NORMALISERS[normalise])
    settings = {"name": name, "search": search, "seed": seed}
    pieces, rate = [], speaker.engine.rate

    def sounds() -> Iterator[np.ndarray]:
        with bar("speak", len(parts), "pieces") as progress:
            spoken = long.speak(speaker, parts, at_once=1 if consume else long.AT_ONCE, **settings)
            for piece in spoken:
                pieces.append(piece)
                pause = long.PAUSES[piece.chunk.ends] if len(pieces) < len(parts) else 0.0
                yield join([piece.wave, np.zeros(0)], [pause], rate)[0]
                seconds = sum(len(one.wave) for one in pieces) / rate
                progress.advance(1, rtf=(time.monotonic() - start) / max(seconds, 1e-9))

    (consume or deque(maxlen=0).extend)(sounds())
    speech = long.Speech(found, pieces, rate)
    recogniser = stages.load_recogniser(speaker.folder, "recogniser")
    if len(parts) > 1 and long.understands(recogniser[0].alphabet, found):
        judge = BatchRecogniser(*recogniser, batch=8)
        rounds = 0 if consume else long.ROUNDS
        long.mend(speech, speaker, judge, rounds=rounds, **settings)
        log(f"heard end to end: {long.describe(speech.findings)}")
    else:
        speech.joined()
    speech.seconds = time.monotonic() - start
    return speech


def describe(speech: long.Speech, *, name: str, search: Search, seed: int) -> dict[str, Any]:
    """The record of a speech, JSON-able, and a line about it on stderr."""
    length = len(speech.wave) / speech.rate
    record = speech.record() | {
        "voice": name,
        "strategy": search.strategy,
        "seed": seed,
        "audio_seconds": length,
        "seconds": speech.seconds,
        "rtf": speech.seconds / length,
    }
    line = (
        f"{length:.2f} s of audio in {speech.seconds:.2f} s (real-time factor {record['rtf']:.2f})"
    )
    if len(speech.pieces) == 1:
        (search_,) = record["searches"]
        (place,) = search_["choices"].values()
        chosen = search_["candidates"][place]
        scores = ", ".join(f"{one} {value:.3f}" for one, value in chosen["scores"].items())
        line += f", take {place + 1} of {len(search_['candidates'])}, {chosen['status']}: {scores}"
    log(line)
    return record


def sound_format(out: str | Path | None, form: str | None) -> str:
    """The name of the format of a file: `form`, or what its suffix says; UserError if unknown."""
    if form is None:
        form = "wav" if out in (None, OUT) else Path(out).suffix.lower().removeprefix(".")
    if form not in FORMATS:
        raise UserError(f"{out}: cannot write {form!r}; give one of {', '.join(FORMATS)}")
    return form


def write_file(path: Path, data: bytes) -> None:
    """The file appears whole or not at all."""
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.chmod(temporary, 0o644)  # mkstemp makes it private
        os.replace(temporary, path)
    except OSError as error:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        raise UserError(f"cannot write {path}: {error.strerror}; choose another place") from error


def _stream(parts: Iterator[bytes]) -> None:
    """Bytes to standard output as they come."""
    try:
        for data in parts:
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
    except BrokenPipeError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing flushes it at exit
        raise UserError("standard output: was closed before all was spoken") from error


def _loudspeaker() -> Callable[[Iterator[np.ndarray], int], Iterator[np.ndarray]]:
    """(sounds, rate) -> the same sounds, each handed on as it is played.

    Raises:
        UserError: there is no PortAudio or no device.
    """
    try:
        import sounddevice
    except (OSError, ImportError) as error:
        raise UserError(f"--play: {error}; install PortAudio, or write a file with -o") from error
    try:
        sounddevice.check_output_settings(channels=1, dtype="float32")
    except (sounddevice.PortAudioError, ValueError) as error:
        raise UserError(f"--play: no loudspeaker ({error}); write a file with -o") from error

    def play(sounds: Iterator[np.ndarray], rate: int) -> Iterator[np.ndarray]:
        with sounddevice.OutputStream(samplerate=rate, channels=1, dtype="float32") as stream:
            for sound in sounds:
                stream.write(sound[:, None])
                yield sound

    return play
