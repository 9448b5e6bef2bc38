"""What was heard of a text, sentence by sentence: which ones are there, twice, or not at all.

The words that a recogniser heard end to end are aligned with the text, letter by letter, by least
edits. Besides a letter's insertion, deletion and substitution an edit may leave out a whole
sentence or go back to the beginning of one, each for little, so that what is missing or said
twice is taken as such and not spread over its neighbours.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from llasa_jax.metrics.text import normalise

LEAVE_OUT, GO_BACK = 4, 6  # edits that these cost
HEARD_WORD = 0.6  # of a word's letters are heard, then it is
LOST, GARBLED, REPEATED, FINE = "lost", "garbled", "repeated", "ok"
LEAST, ENOUGH = 0.2, 0.5  # share of a sentence that is heard: below it is lost, below it is garbled
MOST = 20_000  # letters
FAR = np.int16(30_000)  # more than any number of edits
AGAIN = 0.5  # share of a sentence that is heard a second time, where it is repeated


@dataclass
class Visit:
    """A stretch of what was heard that is taken for a sentence.

    Attributes:
        start, stop: of the heard letters.
        letters: which of the sentence's letters were heard, bool [letters].
        share: of the sentence's letters, those in words that were heard.
    """

    start: int
    stop: int
    letters: np.ndarray
    share: float = 0.0


@dataclass
class Finding:
    """What became of a sentence.

    Attributes:
        text: normalised.
        visits: in the order in which they were heard.
    """

    text: str
    visits: list[Visit] = field(default_factory=list)

    @property
    def best(self) -> Visit | None:
        return max(self.visits, key=lambda visit: visit.share, default=None)

    @property
    def share(self) -> float:
        """Of its letters, those in words that were heard, the best time."""
        return self.best.share if self.best else 0.0

    @property
    def status(self) -> str:
        """ "lost", "garbled", "repeated" or "ok"."""
        if self.share < ENOUGH:
            return LOST if self.share < LEAST else GARBLED
        return REPEATED if sum(visit.share >= AGAIN for visit in self.visits) > 1 else FINE


def reconcile(sentences: Sequence[str], heard: str) -> list[Finding]:
    """What of each sentence was heard.

    Time and memory grow with the product of the lengths: 2 bytes and some 20 ns for each letter
    heard and each of the text.

    Args:
        sentences: as they were to be spoken, in their order.
        heard: all that was heard, in its order.

    Raises:
        ValueError: if either has over `MOST` letters.
    """
    findings = [Finding(normalise(sentence)) for sentence in sentences]
    if not findings:
        return []
    heard = normalise(heard)
    bounds = np.cumsum([0] + [len(finding.text) + 1 for finding in findings])
    if max(bounds[-1], len(heard)) > MOST:
        raise ValueError(f"{max(bounds[-1], len(heard))} letters, at most {MOST}; take parts")
    said = _letters("".join(f"{finding.text} " for finding in findings))
    visits: dict[tuple[int, int], Visit] = {}
    for leg, place, j, agrees in _path(said, _letters(heard), bounds):
        sentence = int(np.searchsorted(bounds, place, "right")) - 1
        finding = findings[sentence]
        if (leg, sentence) not in visits:
            visits[leg, sentence] = Visit(j, j, np.zeros(len(finding.text), bool))
            finding.visits.append(visits[leg, sentence])
        visit = visits[leg, sentence]
        visit.stop = j + 1
        if agrees and place - bounds[sentence] < len(finding.text):
            visit.letters[place - bounds[sentence]] = True
    for finding in findings:
        for visit in finding.visits:
            visit.share = _share(finding.text, visit.letters)
    return findings


def _share(text: str, letters: np.ndarray) -> float:
    """Of a text's letters, those in words of which enough were heard."""
    start, found, total = 0, 0, 0
    for word in text.split():
        found += len(word) * bool(letters[start : start + len(word)].mean() >= HEARD_WORD)
        total += len(word)
        start += len(word) + 1
    return found / total if total else 0.0


def _letters(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le"), np.uint32)


def _leave_out(bounds: np.ndarray) -> np.ndarray:
    """Edits that each sentence costs where it is left out as a whole."""
    return np.minimum(LEAVE_OUT, np.diff(bounds))


def _costs(said: np.ndarray, heard: np.ndarray, bounds: np.ndarray) -> np.ndarray:
    """Least edits between the first j letters heard and the text up to letter i: int16 [j, i]."""
    place = np.arange(len(said) + 1, dtype=np.int16)
    rise = np.append(0, np.cumsum(_leave_out(bounds))).astype(np.int16)

    def forward(row: np.ndarray) -> None:
        """Letters and whole sentences left out."""
        row[:] = np.minimum.accumulate(row - place) + place
        row[bounds] = np.minimum.accumulate(row[bounds] - rise) + rise
        row[:] = np.minimum.accumulate(row - place) + place

    found = np.full((len(heard) + 1, len(said) + 1), FAR, np.int16)
    found[0, 0] = 0
    for j, row in enumerate(found):
        if j:
            row[:] = found[j - 1] + np.int16(1)
            np.minimum(row[1:], found[j - 1, :-1] + (said != heard[j - 1]), out=row[1:])
        forward(row)
        ends = row[bounds]
        later = np.minimum.accumulate(ends[::-1])[::-1]
        again = np.append(later[1:], FAR) + np.int16(GO_BACK)
        if (again < ends).any():
            row[bounds] = np.minimum(ends, again)
            forward(row)
    return found


def _path(
    said: np.ndarray, heard: np.ndarray, bounds: np.ndarray
) -> list[tuple[int, int, int, bool]]:
    """For each letter heard (leg, place in the text, its number, whether they agree), in order.

    A leg ends where sentences are left out or gone back to.
    """
    costs = _costs(said, heard, bounds)
    number = {int(bound): k for k, bound in enumerate(bounds)}
    leave_out = _leave_out(bounds)
    i, j, leg = len(said), len(heard), 0
    path = []
    while i or j:
        cost, k = costs[j, i], number.get(i)
        if i and j and cost == costs[j - 1, i - 1] + (said[i - 1] != heard[j - 1]):
            i, j = i - 1, j - 1
            path.append((-leg, i, j, bool(said[i] == heard[j])))
        elif j and cost == costs[j - 1, i] + 1:
            j -= 1
            path.append((-leg, max(0, i - 1), j, False))
        elif k and cost == costs[j, bounds[k - 1]] + leave_out[k - 1]:
            i, leg = int(bounds[k - 1]), leg + 1
        elif i and cost == costs[j, i - 1] + 1:
            i -= 1
        else:
            later = costs[j, bounds[k + 1 :]] + GO_BACK == cost
            i, leg = int(bounds[k + 1 :][later][0]), leg + 1
    return path[::-1]
