"""What a corpus is: utterances with metadata, and a way to read each one's wave."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from llasa_jax.metrics.text import normalise

Kind = Literal["synthetic", "recorded"]
Split = Literal["train", "valid", "test"]

VALID_SHARE = 0.05
TEST_SHARE = 0.05


@dataclass(frozen=True)
class Utterance:
    """Metadata of one recording.

    Attributes:
      id: unique name, ``corpus/...``.
      text: what is said; empty when it is not known.
      speaker: name of the voice, unique among corpora.
      language: ISO 639 code.
      licence: short name of the licence of the recording and its text.
      kind: synthetic (another synthesiser spoke it) or recorded (a person did).
      split: train, valid or test; fixed for ever by text or recording, or by a held-out voice.
    """

    id: str
    text: str
    speaker: str
    language: str
    licence: str
    kind: Kind
    split: Split

    @property
    def corpus(self) -> str:
        """Name of the corpus it belongs to."""
        return self.id.partition("/")[0]


class Corpus(Protocol):
    """A named list of utterances whose waves are read one at a time, in any order.

    `read` needs no list made before: another process may have listed the utterances.

    Attributes:
      name: the first part of every utterance's id.
      version: changes when recordings change behind the same ids.
      rejects: (place, reason) of what the last `utterances` could not take for an utterance.
    """

    name: str
    version: str
    rejects: Sequence[tuple[str, str]]

    def utterances(self) -> list[Utterance]:
        """All utterances, in a fixed order."""
        ...

    def read(self, utterance: Utterance) -> tuple[np.ndarray, int]:
        """The wave, float32 [samples], and its sample rate; UserError when it is broken."""
        ...


def files_version(paths: Iterable[Path]) -> str:
    """Changes with the size or time of any of the files, so that repaired ones are read again."""
    stats = [path.stat() for path in paths if path.is_file()]
    text = str([(stat.st_size, stat.st_mtime_ns) for stat in stats])
    return hashlib.sha256(text.encode()).hexdigest()


def split_of(id: str, text: str) -> Split:
    """The split of an utterance: by its normalised text, so that no sentence stands in two
    splits whoever speaks it, or by its id when there is no text."""
    key = normalise(text) or id
    draw = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64
    if draw < TEST_SHARE:
        return "test"
    return "valid" if draw < TEST_SHARE + VALID_SHARE else "train"
