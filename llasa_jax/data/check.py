"""`llasa data check`: what is wrong with token rows, before a run is spent on them.

Users' most frequent failures are failures of data: codes without their offset, an END lost to a
cut, a frame too much at every end, speech at another rate. Each has its test here and its remedy.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from llasa_jax.data.memmap import (
    FILES,
    NO_SPEECH,
    NO_TEXT,
    NOT_SPEECH,
    NOT_TEXT,
    TRUNCATED,
    UNKNOWN,
    TokenMemmap,
    has_tokens,
)
from llasa_jax.data.shards import TokenShards, decode_row
from llasa_jax.data.text import has_letters
from llasa_jax.errors import UserError
from llasa_jax.lm.vocabulary import TAGS, Vocabulary
from llasa_jax.metrics.text import normalise

SPLITS = ("train", "valid", "test")
PLACES = 5  # that are named of each fault
RATE_TOLERANCE = 0.02  # by which codes and samples may differ before the rate is doubted
OUTLIER = 6.0  # robust deviations of the codes a character, in logarithms
OUTLIER_AT_LEAST = 1.1  # and by so much: e^1.1 is three times as many
ENOUGH = 20  # examples of a language, to know what is usual
LEAK_CHARACTERS = 20  # shorter texts may be said in any split

# What is looked for, and how it is mended.
FAULTS = {
    "offset": "a code is no id: add the vocabulary's first speech id (128264 with Llama 3's "
    "tokenizer) to each code, and to nothing else",
    "end": "every utterance ends with one <|SPEECH_GENERATION_END|> (a transcript with "
    "<|TEXT_GENERATION_END|>): write it once, right after the codes",
    "extra frame": "codes of N samples are N // hop: drop the last code, which is of padding, or "
    "encode with --length training",
    "truncated": "leave over-long utterances out, or take longer rows: one that is cut teaches "
    "not to stop",
    "sample rate": "resample to the codec's rate before encoding, and encode again",
    "empty text": "leave out what has no text, or transcribe it",
    "length": "far more or fewer codes a character than is usual: the text is not what is said; "
    "transcribe again, or leave out",
    "duplicate": "leave out all but one",
    "leakage": "move all that says the same, or is the same recording, into one split",
    "unknown id": "an id is out of the vocabulary: tokenise with the tokenizer.json beside the "
    "rows",
    "damage": "a file is missing, torn or not what its manifest says: prepare or copy it again",
}


@dataclass
class Finding:
    """How often a fault was found, and where first."""

    count: int = 0
    places: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Spoken:
    """An utterance as its row has it.

    Attributes:
        place: where, in words.
        text: what is said; None where only ids are known.
        text_ids, codes: int [n], [T].
        samples: of the recording, if known.
    """

    place: str
    split: str
    language: str
    text: str | None
    text_ids: np.ndarray
    codes: np.ndarray
    samples: int | None


class Checker:
    """Collects faults; what needs all examples together is found at the end.

    Attributes:
        found: by the name of the fault.
        examples: how many were looked at.
    """

    def __init__(self, vocabulary: Vocabulary, hop: int | None) -> None:
        self.found = {name: Finding() for name in FAULTS}
        self.examples = 0
        self._vocabulary, self._hop = vocabulary, hop
        self._sounds: dict[bytes, str] = {}  # digest of the codes: split
        self._texts: dict[bytes, str] = {}
        self._usual: dict[str, list[tuple[float, str]]] = {}

    def fault(self, name: str, place: str) -> None:
        finding = self.found[name]
        finding.count += 1
        if len(finding.places) < PLACES:
            finding.places.append(place)

    def spoken(self, one: Spoken, complete: bool) -> None:
        """Looks at an utterance; `complete`: its END is there, so that its length counts."""
        text = one.text
        if text is None:
            text = self._vocabulary.tokenizer.decode(one.text_ids.tolist())
        if not len(one.text_ids) or not has_letters(text):
            self.fault("empty text", one.place)
        elif complete and len(one.codes):
            letters = sum(character.isalnum() for character in text)
            ratio = float(np.log(len(one.codes) / max(letters, 1)))
            self._usual.setdefault(one.language, []).append((ratio, one.place))
        if complete and one.samples is not None and self._hop:
            self._length(len(one.codes), one.samples // self._hop, one.place)
        self._twice(one, normalise(text))

    def _length(self, codes: int, expected: int, place: str) -> None:
        if codes == expected + 1:
            self.fault("extra frame", place)
        elif abs(codes - expected) > max(1, RATE_TOLERANCE * expected):
            self.fault("sample rate", place)

    def _twice(self, one: Spoken, text: str) -> None:
        sound = _digest(np.asarray(one.codes, "<i4").tobytes())
        before = self._sounds.setdefault(sound, one.split)
        said = _digest(text.encode("utf-8", "replace"))
        first = one.split
        if len(text) >= LEAK_CHARACTERS:
            first = self._texts.setdefault(said, one.split)
        pair = _digest(sound + said)
        if before != one.split or first != one.split:
            self.fault("leakage", one.place)
        elif pair in self._sounds:
            self.fault("duplicate", one.place)
        self._sounds.setdefault(pair, one.split)

    def finish(self) -> None:
        """Finds what is unusual beside the rest of its language."""
        for group in self._usual.values():
            ratios = np.array([ratio for ratio, _ in group])
            if len(ratios) < ENOUGH:
                continue
            middle = np.median(ratios)
            spread = 1.4826 * np.median(np.abs(ratios - middle))
            limit = max(OUTLIER * spread, OUTLIER_AT_LEAST)
            for place in np.flatnonzero(np.abs(ratios - middle) > limit).tolist():
                self.fault("length", group[place][1])


def check(folder: str | Path, vocabulary: Vocabulary | None = None) -> dict[str, Any]:
    """Looks at everything in a folder of `data prepare`, or in one of the released layout.

    Args:
        vocabulary: of the ids; None takes the folder's own.

    Returns:
        `faults` (name, count, places, mend) of those found, `examples`, `folder`, `good`.

    Raises:
        UserError: the folder holds neither, or no vocabulary is known.
    """
    folder = Path(folder)
    released = has_tokens(folder)
    parts = sorted(p.parent for p in folder.glob("*/*/manifest.json") if p.parent.name in SPLITS)
    if not released and not parts:
        raise UserError(f"{folder} holds no token rows; give a folder that `data prepare` wrote")
    vocabulary = vocabulary or Vocabulary.load(folder)
    if released:
        checker = Checker(vocabulary, None)
        for split in [s for s in FILES if (folder / f"{FILES[s]}.memmap").is_file()]:
            _released(checker, TokenMemmap.open(folder, split, vocabulary), split)
        checker.finish()
        checkers = [checker]
    else:
        hops = _manifest(folder)
        # An utterance has an example of each kind: they are looked at apart.
        kinds = sorted({part.parent.name for part in parts})
        checkers = [Checker(vocabulary, hops.get(kind)) for kind in kinds]
        for checker, kind in zip(checkers, kinds, strict=True):
            for split in [s for s in SPLITS if folder / kind / s in parts]:
                _rows(checker, folder / kind / split, kind, split, vocabulary)
            checker.finish()
    faults = []
    for name, mend in FAULTS.items():
        findings = [checker.found[name] for checker in checkers]
        count = sum(finding.count for finding in findings)
        if count:
            places = [place for finding in findings for place in finding.places][:PLACES]
            faults.append({"name": name, "count": count, "places": places, "mend": mend})
    examples = sum(checker.examples for checker in checkers)
    return {"folder": str(folder), "examples": examples, "good": not faults, "faults": faults}


def _manifest(folder: Path) -> dict[str, int]:
    """The codec's hop for each kind of examples."""
    try:
        folders = json.loads((folder / "data.json").read_text(encoding="utf-8"))["folders"]
        return {name.partition("/")[0]: int(about["hop"]) for name, about in folders.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{folder / 'data.json'} is missing or damaged ({error})") from error


def _released(checker: Checker, rows: TokenMemmap, split: str) -> None:
    faults = {TRUNCATED: "truncated", UNKNOWN: "unknown id", NO_TEXT: "empty text"}
    faults |= {NOT_SPEECH: "offset", NOT_TEXT: "offset", NO_SPEECH: "empty text"}
    for index in range(len(rows)):
        place = f"{rows.path.name} row {index}"
        checker.examples += 1
        parts = rows.parts(index)
        if isinstance(parts, str):
            checker.fault(faults.get(parts, "end"), f"{place}: {parts}")
            continue
        checker.spoken(Spoken(place, split, "", None, parts.text, parts.codes, None), True)


def _rows(checker: Checker, folder: Path, kind: str, split: str, vocabulary: Vocabulary) -> None:
    try:
        shards = TokenShards.open(folder)
    except UserError as error:
        checker.fault("damage", str(error))
        return
    told = shards.about()
    try:
        for row in range(len(shards)):
            for ids in _examples(shards, row):
                about = next(told)
                if about["row"] != row:
                    raise ValueError(f"the index of {folder} is of other rows")
                place = f"{kind}/{split} row {row}: {about.get('id', '?')}"
                checker.examples += 1
                _example(checker, kind, split, place, ids, about, shards.row, vocabulary)
        if next(told, None) is not None:
            raise ValueError(f"the index of {folder} tells of more examples")
    except (UserError, ValueError, StopIteration) as error:
        checker.fault("damage", str(error) or f"the index of {folder} ends too early")


def _examples(shards: TokenShards, row: int) -> Iterator[np.ndarray]:
    lengths, ids, _ = decode_row(shards[row])
    yield from np.split(ids, np.cumsum(lengths)[:-1])


def _example(
    checker: Checker,
    kind: str,
    split: str,
    place: str,
    ids: np.ndarray,
    about: dict[str, Any],
    row: int,
    vocabulary: Vocabulary,
) -> None:
    if ids.min(initial=0) < 0 or ids.max(initial=0) >= vocabulary.size:
        checker.fault("unknown id", place)
        return
    if kind == "text":
        return
    given, made = ("TEXT", "SPEECH") if kind == "generation" else ("SPEECH", "TEXT")
    names = [f"<|{given}_UNDERSTANDING_{end}|>" for end in ("START", "END")]
    names += [f"<|{made}_GENERATION_{end}|>" for end in ("START", "END")]
    tags = [vocabulary.text_vocab + TAGS.index(name) for name in names]
    at = [np.flatnonzero(ids == tag) for tag in tags]
    if any(len(places) != 1 for places in at[:3]) or len(at[3]) > 1:
        checker.fault("end", f"{place}: its tags do not stand once each")
        return
    first, second, third = (int(places[0]) for places in at[:3])
    complete = len(at[3]) == 1
    rest = ids[: np.flatnonzero(ids != vocabulary.eot)[-1] + 1]  # without the end of the turn
    last = int(at[3][0]) if complete else len(rest)
    if not first < second < third < last + (not complete):
        checker.fault("end", f"{place}: its tags are out of order")
        return
    if not complete:
        cut = len(ids) >= row
        checker.fault("truncated" if cut else "end", f"{place}: no END")
    parts = {given: ids[first + 1 : second], made: ids[third + 1 : last]}
    text, speech = parts["TEXT"], parts["SPEECH"]
    if (speech < vocabulary.first_code).any() or (text >= vocabulary.text_vocab).any():
        checker.fault("offset", place)
        return
    samples, said = about.get("samples"), about.get("text")
    codes = speech - vocabulary.first_code
    language = str(about.get("language", ""))
    checker.spoken(Spoken(place, split, language, said, text, codes, samples), complete)


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=12).digest()


def lines(found: dict[str, Any]) -> str:
    """What `check` found, to read."""
    head = f"{found['folder']}: {found['examples']} examples"
    if found["good"]:
        return f"{head}, nothing wrong"
    rows = [f"{head}, {len(found['faults'])} kinds of faults"]
    for fault in found["faults"]:
        rows += ["", f"{fault['name']}: {fault['count']} times"]
        rows += [f"  at {place}" for place in fault["places"]]
        rows.append(f"  mend: {fault['mend']}")
    return "\n".join(rows)
