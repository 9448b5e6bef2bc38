"""A synthetic corpus: sentences out of WordNet's glosses, spoken by flite's voices."""

import hashlib
import os
import random
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import soundfile

from llasa_jax.audio.io import read_audio
from llasa_jax.console import bar
from llasa_jax.data.debian import fetch_packages, library_path
from llasa_jax.data.utterance import Utterance, split_of
from llasa_jax.errors import UserError
from llasa_jax.metrics.text import normalise

VOICES = ("slt", "rms", "awb", "kal16")
SHARED_TEST_SENTENCES = 8  # said by every voice, to compare voices on the same words
_SENTENCE = re.compile(r"[A-Za-z][A-Za-z ,.'-]{18,88}[A-Za-z]")
_SILENCE_SECONDS = 0.25  # flite's own pauses around a sentence, which the store trims
_BATCH = 128


def read_glosses(folder: Path) -> list[str]:
    """Speakable first clauses of WordNet's glosses (20 to 90 characters, 4 to 15 words), sorted.

    Args:
      folder: WordNet's database folder, with ``data.noun`` and its siblings.
    """
    found = {}
    for name in ("data.noun", "data.verb", "data.adj", "data.adv"):
        for line in (folder / name).read_text(encoding="latin-1").splitlines():
            clause = line.partition(" | ")[2].partition(";")[0].strip()
            if _SENTENCE.fullmatch(clause) and 4 <= len(clause.split()) <= 15:
                found[normalise(clause)] = clause
    return [found[key] for key in sorted(found)]


class FliteCorpus:
    """At least `minutes` of synthetic English by four voices, text and audio paired.

    Each sentence is spoken by exactly one voice, except the first few of the test split, which
    all voices speak. The same seed gives the same sentences, voices and bytes.
    """

    name = "quickstart-synthetic"
    version = ""
    rejects = ()
    licence = "WordNet 3.0 licence (text), CMU flite licence (voices)"

    def __init__(self, cache: Path, minutes: float = 60.0, seed: int = 0) -> None:
        if not minutes > 0:
            raise UserError(f"minutes of synthetic speech must be above 0, not {minutes}")
        self.minutes = minutes
        self.seed = seed
        (wordnet,) = fetch_packages(["wordnet-base"], cache)
        self._glosses = wordnet / "usr/share/wordnet"
        self._folder = cache.resolve() / "flite"
        self._program, self._environment = _find_flite(cache)

    def _plan(self) -> list[tuple[str, str]]:
        """(voice, sentence) in the order in which they are taken."""
        sentences = read_glosses(self._glosses)
        random.Random(self.seed).shuffle(sentences)
        plan, shared = [], 0
        for index, sentence in enumerate(sentences):
            voices = [VOICES[index % len(VOICES)]]
            if shared < SHARED_TEST_SENTENCES and split_of("", sentence) == "test":
                voices, shared = list(VOICES), shared + 1
            plan += [(voice, sentence) for voice in voices]
        return plan

    def utterances(self) -> list[Utterance]:
        """Speak sentences until there are enough minutes (kept in the cache), and list them."""
        chosen: list[Utterance] = []
        plan = self._plan()
        seconds, wanted = 0.0, 60 * self.minutes
        with (
            ThreadPoolExecutor(os.cpu_count()) as pool,
            bar("Speaking synthetic sentences", wanted, "s of speech") as shown,
        ):
            for start in range(0, len(plan), _BATCH):
                batch = plan[start : start + _BATCH]
                lengths = pool.map(self._speak, *zip(*batch, strict=True))
                for (voice, sentence), length in zip(batch, lengths, strict=True):
                    if seconds >= wanted:
                        return chosen
                    chosen.append(self._utterance(voice, sentence))
                    seconds += length
                    shown.advance(length)
        raise UserError(
            f"WordNet's glosses give only {seconds / 60:.0f} minutes of speech, not "
            f"{self.minutes:g}; ask for fewer minutes"
        )

    def _utterance(self, voice: str, sentence: str) -> Utterance:
        return Utterance(
            id=f"{self.name}/{voice}/{_key(sentence)}",
            text=sentence,
            speaker=f"flite-{voice}",
            language="en",
            licence=self.licence,
            kind="synthetic",
            split=split_of("", sentence),
        )

    def _speak(self, voice: str, sentence: str) -> float:
        """Speak into the cache unless it is there; the seconds of speech in the file."""
        path = self._folder / voice / f"{_key(sentence)}.wav"
        try:
            if not path.exists():
                self._run(voice, sentence, path)
            return max(0.0, soundfile.info(path).duration - _SILENCE_SECONDS)
        except (OSError, soundfile.LibsndfileError) as error:
            raise UserError(
                f"cannot write speech to {path.parent} ({error}); check disk"
            ) from error

    def _run(self, voice: str, sentence: str, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        command = [self._program, "-voice", voice, "-t", sentence, "-o", temporary]
        done = subprocess.run(command, env=self._environment, capture_output=True, text=True)
        # With a full disk flite says nothing and leaves a short file.
        if done.returncode or soundfile.info(temporary).frames == 0:
            raise UserError(f"flite cannot speak ({done.stderr.strip()[:200]}); check the disk")
        os.replace(temporary, path)

    def read(self, utterance: Utterance) -> tuple[np.ndarray, int]:
        """The wave, float32 [samples], and its sample rate."""
        voice, key = utterance.id.split("/")[1:]
        self._speak(voice, utterance.text)  # another host may have listed it
        return read_audio(self._folder / voice / f"{key}.wav")


def _key(sentence: str) -> str:
    return hashlib.sha256(sentence.encode()).hexdigest()[:16]


def _find_flite(cache: Path) -> tuple[str, dict[str, str]]:
    """The program and the environment to run it in: the system's own, else from packages."""
    environment = dict(os.environ)
    program = shutil.which("flite")
    if program is None:
        roots = fetch_packages(["flite"], cache, libraries=True)
        program = str(roots[0] / "usr/bin/flite")
        paths = [library_path(roots), environment.get("LD_LIBRARY_PATH")]
        environment["LD_LIBRARY_PATH"] = os.pathsep.join(filter(None, paths))
    listed = subprocess.run([program, "-lv"], env=environment, capture_output=True, text=True)
    missing = set(VOICES) - set(listed.stdout.split())
    if missing:
        raise UserError(
            f"{program} does not run with the voices {', '.join(sorted(missing))} "
            f"({listed.stderr.strip()[:200] or 'not built in'}); install flite 2.2"
        )
    return program, environment
