"""Sentences of a text, and pieces of them that a model can say at once."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sentencex import segment

_PARAGRAPH = re.compile(r"\n\s*\n")
_HAN, _KANA = re.compile("[\u3400-\u9fff\uf900-\ufaff]"), re.compile("[\u3040-\u30ff]")
_SPOKEN = re.compile(r"[^\W_]")
# sentencex takes "no." for a number's and closing quotes for the middle of a sentence.
_MISSED = re.compile(r"(?<=\b[Nn]o\.)\s+(?=[A-Z])|(?<=[.!?][\"”’)])\s+(?=[\"“‘(]?[A-Z])")
_CLAUSES = re.compile(r"(?<=[,;:，、；：])\s*|\s+(?=[—–-]\s)|(?<=[—–])\s*")
_SCRIPT = re.compile(
    "[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|[^\\s\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]+|\\s+"
)
SHORT = 20  # characters; shorter sentences are said together with a neighbour


@dataclass(frozen=True)
class Sentence:
    """A sentence.

    Attributes:
        text: as it is written.
        spoken: as it is read aloud.
        paragraph: the number of its paragraph.
    """

    text: str
    spoken: str
    paragraph: int


@dataclass(frozen=True)
class Chunk:
    """What is spoken at once.

    Attributes:
        text: of at most the limit's characters.
        sentences: the numbers of the sentences that it is of: one, or short neighbours.
        ends: what ends with it: "clause", "sentence" or "paragraph".
    """

    text: str
    sentences: tuple[int, ...]
    ends: str


def language(text: str) -> str:
    """ "ja", "zh" or "en", by the letters; "en" stands for all scripts with spaces."""
    return "ja" if _KANA.search(text) else "zh" if _HAN.search(text) else "en"


def sentences(text: str, read: Callable[[str], str] = str) -> list[Sentence]:
    """The sentences of a text that hold anything to say, by sentencex.

    Stops of abbreviations, initials, numbers and quotations end none. A blank line ends a paragraph
    and its sentence; other line ends are spaces.

    Args:
        read: what is spoken of each sentence that is not Chinese or Japanese.
    """
    found = []
    for paragraph, part in enumerate(_PARAGRAPH.split(text)):
        kind = language(part)
        joint = " " if kind == "en" else ""
        line = joint.join(one.strip() for one in part.splitlines())
        for one in _segment(kind, line):
            spoken = read(one) if language(one) == "en" else one
            if _SPOKEN.search(spoken):
                found.append(Sentence(one, spoken, paragraph))
    return found


def _segment(kind: str, line: str) -> list[str]:
    pieces = [piece for whole in segment(kind, line) for piece in _MISSED.split(whole)]
    joined: list[str] = []
    for piece in (piece.strip() for piece in pieces):
        if piece and joined and not _SPOKEN.search(piece):
            joined[-1] += piece  # stops and quotes alone belong to what they close
        elif piece:
            joined.append(piece)
    return joined


def chunks(found: Sequence[Sentence], limit: int) -> list[Chunk]:
    """The sentences in pieces of at most `limit` characters, in their order.

    A longer sentence is cut between clauses, a longer clause between words, a longer word wherever
    the limit falls. Sentences of under `SHORT` characters join a neighbour of their paragraph.
    """
    made: list[Chunk] = []
    for number, sentence in enumerate(found):
        last = number + 1 == len(found) or found[number + 1].paragraph != sentence.paragraph
        end = "paragraph" if last else "sentence"
        before = made[-1] if made else None
        if before and before.ends == "sentence":
            together = _together(before.text, sentence.spoken)
            short = min(len(before.text), len(sentence.spoken)) < SHORT
            if short and len(together) <= limit:
                made[-1] = Chunk(together, (*before.sentences, number), end)
                continue
        pieces = _pieces(sentence.spoken, limit)
        made += [Chunk(piece, (number,), "clause") for piece in pieces[:-1]]
        made.append(Chunk(pieces[-1], (number,), end))
    return made


def _pieces(text: str, limit: int) -> list[str]:
    """A sentence in pieces of at most `limit` characters, of about equal length."""
    if len(text) <= limit:
        return [text]
    clauses = [clause for clause in _CLAUSES.split(text) if clause.strip()]
    parts = []
    for clause in clauses:
        parts += [clause] if len(clause) <= limit else _words(clause, limit)
    return _even(parts, limit)


def _words(clause: str, limit: int) -> list[str]:
    parts: list[str] = []
    for word in _SCRIPT.findall(clause):
        for start in range(0, len(word), limit):
            parts.append(word[start : start + limit])
    return parts


def _even(parts: Sequence[str], limit: int) -> list[str]:
    """Neighbours packed into as few pieces as fit, then into pieces of as equal length as that
    number allows."""
    fewest, width = len(_pack(parts, limit)), limit
    total = sum(map(len, parts))
    for width in range(-(-total // fewest), limit):
        packed = _pack(parts, width)
        if len(packed) <= fewest:
            return packed
    return _pack(parts, limit)


def _pack(parts: Sequence[str], limit: int) -> list[str]:
    """Neighbours packed while they fit."""
    packed: list[str] = []
    for part in parts:
        together = _together(packed[-1], part) if packed else part.strip()
        if packed and len(together) <= limit:
            packed[-1] = together
        elif part.strip():
            packed.append(part.strip())
    return packed


def _together(before: str, after: str) -> str:
    spaced = "en" in (language(before[-8:]), language(after[:8]))
    return f"{before}{' ' if spaced else ''}{after}".strip()
