"""Texts of any length: spoken piece by piece, joined, heard as a whole, and mended.

Every piece goes on from the voice's own prompt, not from the piece before it: the voice is carried
on, the melody of the last sentence is not. What the model's recogniser hears of the joined wave,
end to end, is aligned with the text; pieces of sentences that are lost, garbled or said twice are
drawn again with another seed, and a new take stays where more of its sentences is heard.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np

from llasa_jax.audio.joining import join, stretches
from llasa_jax.console import log
from llasa_jax.data.store import trim_silence
from llasa_jax.errors import UserError
from llasa_jax.metrics.text import normalise
from llasa_jax.recipes.strategy import Search
from llasa_jax.recipes.voice import Voice
from llasa_jax.search.record import search_record
from llasa_jax.text.reconcile import FINE, Finding, reconcile
from llasa_jax.text.sentences import Chunk, Sentence, chunks, sentences
from llasa_jax.verifiers.external import Judge

PAUSES = {"clause": 0.1, "sentence": 0.25, "paragraph": 0.6}  # seconds, beside 0.1 s of the takes'
AT_ONCE = 8  # pieces whose takes are held in memory
ROUNDS = 3  # of drawing again what was not heard
ANOTHER = 1_000_003  # from a round's seed to the next one's
PART_LETTERS = 12_000  # that are reconciled at once
KNOWN_LETTERS = 0.9  # of a text, that the recogniser must know to judge it
MOST_CHARACTERS = 200_000  # of a text


@dataclass(frozen=True, eq=False)
class Piece:
    """A chunk that was spoken: its wave float32 [samples], without silence, and the search."""

    chunk: Chunk
    wave: np.ndarray
    record: dict[str, Any]


@dataclass
class Speech:
    """A text that was spoken.

    Attributes:
        wave, rate: float32 [samples], and samples a second.
        spans: first and last sample of each piece.
        findings: what was heard of each sentence; None where nobody listened.
        redrawn: by piece, how often another take was searched for it.
        history: how many sentences were of each status, each time that the whole was heard.
        seconds: that speaking took, listening included.
    """

    sentences: list[Sentence]
    pieces: list[Piece]
    rate: int
    wave: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    spans: list[tuple[int, int]] = field(default_factory=list)
    findings: list[Finding] | None = None
    redrawn: dict[int, int] = field(default_factory=dict)
    history: list[dict[str, int]] = field(default_factory=list)
    seconds: float = 0.0

    def joined(self) -> "Speech":
        """This speech, its wave made of its pieces."""
        ends = [PAUSES[piece.chunk.ends] for piece in self.pieces[:-1]]
        self.wave, self.spans = join([piece.wave for piece in self.pieces], ends, self.rate)
        return self

    def span(self, sentence: int) -> tuple[int, int]:
        """First and last sample of the pieces that a sentence is said in."""
        own = [
            s for s, p in zip(self.spans, self.pieces, strict=True) if sentence in p.chunk.sentences
        ]
        return own[0][0], own[-1][1]

    def record(self) -> dict[str, Any]:
        """JSON-able: what was said where, what was heard of it, and every search."""
        rows = []
        for number, sentence in enumerate(self.sentences):
            start, stop = self.span(number)
            row = {
                "text": sentence.text,
                "spoken": sentence.spoken,
                "start": start / self.rate,
                "stop": stop / self.rate,
            }
            if self.findings is not None:
                finding = self.findings[number]
                row |= {"status": finding.status, "heard": finding.share}
            rows.append(row)
        searches = [
            piece.record
            | {"sentences": list(piece.chunk.sentences), "redrawn": self.redrawn.get(i, 0)}
            for i, piece in enumerate(self.pieces)
        ]
        return {"sentences": rows, "searches": searches, "heard": self.history}


def plan(text: str, limit: int, read: Callable[[str], str]) -> tuple[list[Sentence], list[Chunk]]:
    """The sentences of a text, and the chunks of up to `limit` characters that are spoken at once.

    Raises:
        UserError: if there is nothing to say, or too much.
    """
    if len(text) > MOST_CHARACTERS:
        raise UserError(f"text: has {len(text)} characters, at most {MOST_CHARACTERS}; split it")
    found = sentences(text, read)
    if not found:
        raise UserError(f"text {text[:40]!r}: has no letter to speak; give words")
    return found, chunks(found, limit)


def speak(
    voice: Voice,
    parts: Sequence[Chunk],
    *,
    name: str,
    search: Search,
    seed: int,
    at_once: int = AT_ONCE,
) -> Iterator[Piece]:
    """Each chunk in the voice of that name, in order; the same seed gives the same takes.

    Args:
        at_once: chunks whose takes are drawn together; fewer are heard sooner.

    Raises:
        UserError: as `Search.draw`.
    """
    groups = -(-len(parts) // at_once)
    bounds = [len(parts) * g // groups for g in range(groups + 1)]  # of even size: one program
    for start, stop in pairwise(bounds):
        group = parts[start:stop]
        texts = [part.text for part in group]
        pools, seconds = search.draw(voice, texts, [name] * len(texts), seed + start)
        for part, pool in zip(group, pools, strict=True):
            place = search.keep(pool)
            wave = trim_silence(pool.waves[place], voice.engine.rate)
            record = search_record(
                pool,
                search.select,
                {search.candidates: place},
                strategy=search.strategy,
                seconds=seconds / len(group),
                seed=seed + start,
                settings=voice.settings,
            )
            yield Piece(part, wave, record)


def understands(alphabet: str, found: Sequence[Sentence]) -> bool:
    """Whether a recogniser of these letters can judge the sentences."""
    letters = [x for one in found for x in normalise(one.spoken) if x != " "]
    return bool(letters) and np.mean([x in alphabet for x in letters]) >= KNOWN_LETTERS


def listen(judge: Judge, speech: Speech) -> list[Finding]:
    """What a judge hears of each sentence in the joined wave, which knows no piece's ends.

    The wave is cut where it is quiet. Long texts are aligned in parts of `PART_LETTERS`.
    """
    findings: list[Finding] = []
    part: list[int] = []
    for number in range(len(speech.sentences)):
        part.append(number)
        letters = sum(len(speech.sentences[i].spoken) for i in part)
        if letters < PART_LETTERS and number + 1 < len(speech.sentences):
            continue
        start, stop = speech.span(part[0])[0], speech.span(part[-1])[1]
        own = [speech.sentences[i] for i in part]
        findings += heard_in(judge, speech.wave[start:stop], speech.rate, own)
        part = []
    return findings


def heard_in(judge: Judge, wave: np.ndarray, rate: int, found: Sequence[Sentence]) -> list[Finding]:
    """What a judge hears of each sentence in a wave float32 [samples]."""
    heard = judge.transcribe([wave[a:b] for a, b in stretches(wave, rate)])
    return reconcile([one.spoken for one in found], " ".join(heard))


def mend(
    speech: Speech,
    voice: Voice,
    judge: Judge,
    *,
    name: str,
    search: Search,
    seed: int,
    rounds: int = ROUNDS,
) -> Speech:
    """Draws the pieces of sentences again that were not heard once, and keeps what is better.

    Returns:
        The speech, joined, with its `findings`.
    """
    speech.findings = listen(judge, speech.joined())
    speech.history.append(statuses(speech.findings))
    for turn in range(1, rounds + 1):
        bad = [i for i, finding in enumerate(speech.findings) if finding.status != FINE]
        again = [k for k, p in enumerate(speech.pieces) if set(p.chunk.sentences) & set(bad)]
        if not again:
            break
        log(f"heard end to end: {describe(speech.findings)}; {len(again)} pieces are drawn again")
        pieces = list(speech.pieces)
        drawn = speak(
            voice,
            [pieces[k].chunk for k in again],
            name=name,
            search=search,
            seed=seed + turn * ANOTHER,
        )
        for k, piece in zip(again, drawn, strict=True):
            pieces[k] = piece
            speech.redrawn[k] = speech.redrawn.get(k, 0) + 1
        other = replace(speech, pieces=pieces).joined()
        findings = listen(judge, other)
        for group in _groups(speech.pieces, again):
            own = sorted({i for k in group for i in speech.pieces[k].chunk.sentences})
            if _worth(findings, own) <= _worth(speech.findings, own):
                for k in group:
                    pieces[k] = speech.pieces[k]
        reverted = any(pieces[k] is speech.pieces[k] for k in again)
        speech.pieces = pieces
        speech.joined()
        speech.findings = listen(judge, speech) if reverted else findings
        speech.history.append(statuses(speech.findings))
    return speech


def _groups(pieces: Sequence[Piece], numbers: Sequence[int]) -> list[list[int]]:
    """Pieces that share a sentence together: they were drawn for each other."""
    groups: list[list[int]] = []
    for k in numbers:
        last = groups[-1] if groups else []
        if last and set(pieces[last[-1]].chunk.sentences) & set(pieces[k].chunk.sentences):
            last.append(k)
        else:
            groups.append([k])
    return groups


def _worth(findings: Sequence[Finding], numbers: Sequence[int]) -> tuple[int, float]:
    """Better is more: sentences that are there once, then the share of their letters."""
    own = [findings[i] for i in numbers]
    return sum(one.status == FINE for one in own), sum(one.share for one in own)


def statuses(findings: Sequence[Finding]) -> dict[str, int]:
    """How many sentences are of each status."""
    return dict(Counter(finding.status for finding in findings))


def describe(findings: Sequence[Finding]) -> str:
    """ "40 of 42 sentences once, 1 lost, 1 repeated"."""
    counts = statuses(findings)
    rest = [f"{count} {status}" for status, count in counts.items() if status != FINE]
    return ", ".join([f"{counts.get(FINE, 0)} of {len(findings)} sentences once", *rest])
