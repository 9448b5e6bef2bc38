"""What judges speech, by name: words, voices, emotions, quality. All hear waves at 16 kHz.

Weights that are published elsewhere are named with their place, NAME=PATH; none are part of this
package (docs/verifiers.md has their licences).
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import numpy as np

from llasa_jax.config import RecogniserConfig, SpeakerConfig
from llasa_jax.errors import UserError
from llasa_jax.interop.bundle import load_part, part_hash
from llasa_jax.interop.emotion2vec import import_emotion2vec
from llasa_jax.interop.hubert import import_hubert
from llasa_jax.interop.resemblyzer import load_ge2e
from llasa_jax.interop.wavlm import import_wavlm
from llasa_jax.interop.whisper import import_whisper
from llasa_jax.metrics import seed_tts
from llasa_jax.metrics.seed_tts import Language
from llasa_jax.verifiers.emotion2vec import emotion2vec_verifier
from llasa_jax.verifiers.external import Dnsmos, Paraformer, Pocketsphinx, Utmos
from llasa_jax.verifiers.ge2e import Ge2eEncoder
from llasa_jax.verifiers.hubert import hubert_transcriber, hubert_verifier
from llasa_jax.verifiers.protocol import Verifier
from llasa_jax.verifiers.recogniser import BatchRecogniser, Recogniser, content_verifier
from llasa_jax.verifiers.speaker import SpeakerEncoder, speaker_verifier
from llasa_jax.verifiers.wavlm import wavlm_verifier
from llasa_jax.verifiers.whisper import whisper_transcriber, whisper_verifier

RATE = 16_000
Kind = Literal["words", "voice", "emotion", "quality"]
KINDS: dict[str, Kind] = {
    "whisper": "words",
    "paraformer": "words",
    "hubert": "words",
    "pocketsphinx": "words",
    "content": "words",
    "recogniser": "words",
    "wavlm": "voice",
    "ge2e": "voice",
    "speaker": "voice",
    "emotion2vec": "emotion",
    "dnsmos": "quality",
    "utmos": "quality",
}
# Need NAME=PATH; "recogniser" is one that `llasa train` made, in a model folder.
IMPORTED = ("whisper", "hubert", "recogniser", "wavlm", "emotion2vec")
OF_LETTERS = ("content", "recogniser")  # write letters as they hear them, and know no words
OF_THE_MODEL = {"content": "recogniser", "speaker": "speaker"}
PACKAGES = {
    "paraformer": "funasr",
    "pocketsphinx": "pocketsphinx",
    "ge2e": "Resemblyzer",
    "dnsmos": "speechmos",
    "utmos": "torch",
}


@dataclass(frozen=True)
class Scorer:
    """A judge.

    Attributes:
        source: names its weights: a hash, or a package's version.
        judge: waves float32 [samples] each -> of "words" a text each, of "voice" and "emotion" unit
            embeddings [N, E], of "quality" numbers [N].
    """

    name: str
    kind: Kind
    source: str
    judge: Callable[[Sequence[np.ndarray]], Any]


def parse_scorers(words: Sequence[str]) -> dict[str, str]:
    """NAME or NAME=PATH of each -> the path of each name, empty where it needs none.

    Raises:
        UserError: a name is unknown or twice there, or lacks its path.
    """
    found: dict[str, str] = {}
    for word in words:
        name, _, path = word.partition("=")
        if name not in KINDS:
            raise UserError(f"scorer {name!r}: unknown, there are: {', '.join(KINDS)}")
        if name in found:
            raise UserError(f"scorer {name}: is named twice; name it once")
        if name in IMPORTED and not path:
            raise UserError(f"scorer {name}: where are its weights? say {name}=PATH")
        found[name] = path
    return found


class Listeners:
    """Judges and verifiers, each one's weights read once.

    Args:
        paths: as `parse_scorers` gives them.
        model: folder of the model, whose own recogniser and speaker encoder are among them.
    """

    def __init__(self, paths: Mapping[str, str], model: Path | None, language: Language):
        self.paths, self.model, self.language = dict(paths), model, language
        self._kept: dict[tuple, Any] = {}

    def of(self, model: Path | None) -> "Listeners":
        """The same for another model; what was read of elsewhere is shared."""
        other = Listeners(self.paths, model, self.language)
        other._kept = self._kept
        return other

    def _once(self, what: str, name: str, make: Callable[[str], Any]) -> Any:
        """What `make` makes of a name, made at the first call."""
        key = what, name, self.model if name in OF_THE_MODEL else None
        if key not in self._kept:
            self._kept[key] = make(name)
        return self._kept[key]

    def source(self, name: str) -> str:
        """What names the weights of a scorer; UserError if there are none."""
        return self._once("source", name, self._source)

    def _source(self, name: str) -> str:
        if name not in KINDS:
            raise UserError(f"judge or verifier {name!r}: unknown, there are: {', '.join(KINDS)}")
        if name in OF_THE_MODEL:
            return part_hash(self._folder(name), OF_THE_MODEL[name])
        if self.paths.get(name):
            return _content_hash(Path(self.paths[name]))
        if name in IMPORTED:
            raise UserError(f"{name}: where are its weights? say --scorer {name}=PATH")
        package = PACKAGES[name]
        try:
            return f"{package} {metadata.version(package)}"
        except metadata.PackageNotFoundError as error:
            raise UserError(f"scorer {name}: needs the package {package}; install it") from error

    def _folder(self, name: str) -> Path:
        if self.model is None or not (self.model / f"{OF_THE_MODEL[name]}.safetensors").is_file():
            raise UserError(f"{name}: {self.model} has no {OF_THE_MODEL[name]}; name another judge")
        return self.model

    def _parts(self, name: str) -> tuple:
        """Configuration, parameters and what else a model's functions take."""
        return self._once("parts", name, self._read)

    def _read(self, name: str) -> tuple:
        if name == "content":
            return _own_recogniser(self._folder(name))
        if name == "speaker":
            build = lambda c, r: SpeakerEncoder(c, rngs=r)  # noqa: E731
            return load_part(self._folder(name), "speaker", SpeakerConfig, build)[:2]
        self.source(name)
        path = Path(self.paths[name])
        if name == "whisper":
            return import_whisper(path, language=self.language)
        return {
            "recogniser": _own_recogniser,
            "hubert": import_hubert,
            "wavlm": import_wavlm,
            "emotion2vec": import_emotion2vec,
        }[name](path)

    def verifier(self, name: str) -> Verifier:
        """For an engine's list.

        Raises:
            UserError: if nothing of that name can score in jit.
        """
        made = {
            "content": content_verifier,
            "speaker": speaker_verifier,
            "whisper": whisper_verifier,
            "hubert": hubert_verifier,
            "wavlm": wavlm_verifier,
            "emotion2vec": emotion2vec_verifier,
        }
        if name not in made:
            raise UserError(f"verifier {name!r}: unknown, there are: {', '.join(made)}")
        return made[name](*self._parts(name), name=name)

    def scorer(self, name: str) -> Scorer:
        """The judge of that name; UserError if it cannot be had."""
        return self._once("scorer", name, self._scorer)

    def _scorer(self, name: str) -> Scorer:
        kind, source = KINDS[name], self.source(name)
        if kind in ("voice", "emotion"):
            return Scorer(name, kind, source, self._embedder(name))
        if kind == "quality":
            judge = {"dnsmos": Dnsmos, "utmos": Utmos}[name]()
            return Scorer(name, kind, source, judge.scores)
        return Scorer(name, kind, source, self._transcriber(name))

    def _transcriber(self, name: str) -> Callable[[Sequence[np.ndarray]], list[str]]:
        if name == "pocketsphinx":
            return Pocketsphinx().transcribe
        if name == "paraformer":
            judge = Paraformer(self.paths.get(name) or "paraformer-zh")
            return lambda waves: [seed_tts.simplified(text) for text in judge.transcribe(waves)]
        made = {
            "content": BatchRecogniser,
            "recogniser": BatchRecogniser,
            "whisper": whisper_transcriber,
            "hubert": hubert_transcriber,
        }[name]
        return made(*self._parts(name), name=name).transcribe

    def _embedder(self, name: str) -> Callable[[Sequence[np.ndarray]], np.ndarray]:
        if name == "ge2e":
            return Ge2eEncoder(load_ge2e()).embed
        verifier = self.verifier(name)
        return lambda waves: np.stack([verifier.reference("", wave) for wave in waves])


def _own_recogniser(folder: Path) -> tuple[RecogniserConfig, dict]:
    build = lambda c, r: Recogniser(c, rngs=r)  # noqa: E731
    return load_part(folder, "recogniser", RecogniserConfig, build)[:2]


def _content_hash(path: Path) -> str:
    """Sixteen hexadecimal digits of a file, or of the weights and settings in a folder."""
    if path.is_dir():
        kinds = (".safetensors", ".bin", ".json", ".pt", ".pth")
        files = sorted(one for one in path.iterdir() if one.suffix in kinds)
    else:
        files = [path] if path.is_file() else []
    if not files:
        raise UserError(f"{path}: no weights there; give the folder or file that was published")
    digest = hashlib.sha256()
    for one in files:
        with one.open("rb") as file:
            digest.update(
                f"{one.name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode()
            )
    return digest.hexdigest()[:16]
