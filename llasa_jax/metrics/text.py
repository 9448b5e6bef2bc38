"""Word and character error rates of transcripts, with each utterance's counts kept."""

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jiwer
import numpy as np

from llasa_jax.errors import UserError
from llasa_jax.metrics import statistics

_NOT_WORD = re.compile(r"[^\w']+|[\d_]+")
_LOOSE_APOSTROPHE = re.compile(r"(?<!\w)'+|'+(?!\w)")


def normalise(text: str) -> str:
    """Lower-case words of letters and inner apostrophes, one space between them.

    Letters are those of any script, composed (NFC), so Dutch and Czech keep their marks.
    """
    text = unicodedata.normalize("NFC", text).replace("\u2019", "'").lower()
    text = _NOT_WORD.sub(" ", text)
    return " ".join(_LOOSE_APOSTROPHE.sub(" ", text).split())


@dataclass(frozen=True)
class ErrorCounts:
    """What a recogniser got wrong in each utterance, int64 [utterances] each.

    `length` counts the reference's units (words or characters); their sum divides the errors.
    """

    substitutions: np.ndarray
    deletions: np.ndarray
    insertions: np.ndarray
    length: np.ndarray

    @property
    def errors(self) -> np.ndarray:
        return self.substitutions + self.deletions + self.insertions

    @property
    def rate(self) -> float:
        """Corpus rate: the sum of errors over the sum of reference units.

        Raises:
            UserError: if the references hold no unit at all.
        """
        if not self.length.sum():
            raise UserError("no error rate: the reference texts hold no words; give their texts")
        return float(self.errors.sum() / self.length.sum())

    def interval(self, **settings: Any) -> statistics.Interval:
        """Bootstrap interval of `rate` over utterances."""
        return statistics.rate(self.errors, self.length, **settings)


def word_errors(references: Sequence[str], hypotheses: Sequence[str]) -> ErrorCounts:
    """Word errors of the normalised texts, by jiwer (minimum edit distance).

    An empty hypothesis deletes all reference words; words heard where the reference has none are
    insertions, which count for the corpus.

    Raises:
        ValueError: if the lists differ in length.
    """
    return _count(jiwer.process_words, references, hypotheses)


def character_errors(references: Sequence[str], hypotheses: Sequence[str]) -> ErrorCounts:
    """Character errors of the normalised texts, by jiwer; the space between words is one too.

    Raises:
        ValueError: if the lists differ in length.
    """
    return _count(jiwer.process_characters, references, hypotheses)


def _count(process: Callable, references: Sequence[str], hypotheses: Sequence[str]) -> ErrorCounts:
    rows = []
    for reference, hypothesis in zip(references, hypotheses, strict=True):
        out = process(normalise(reference), normalise(hypothesis))
        length = out.hits + out.substitutions + out.deletions
        rows.append((out.substitutions, out.deletions, out.insertions, length))
    return ErrorCounts(*np.array(rows, np.int64).reshape(-1, 4).T)
