"""`llasa eval longtext`: does a long text come out whole, and is it noticed where it does not?

Texts are made of held-out sentences of the shipped voice's corpus. What was spoken is judged by
pocketsphinx, which took no part in choosing or mending: a sentence is there if at least half of
its content words are heard in its window. The same sentences spoken by flite say how many the judge
would find of a perfect reading. Then sentences are cut out of the sound and doubled in it on
purpose, and the reconciliation must find them.
"""

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jiwer
import numpy as np

from llasa_jax.audio.encode import encode
from llasa_jax.audio.io import resample
from llasa_jax.audio.joining import join
from llasa_jax.console import log
from llasa_jax.data.debian import default_cache
from llasa_jax.data.store import level, trim_silence
from llasa_jax.data.synthetic import FliteEnglish
from llasa_jax.errors import UserError
from llasa_jax.metrics import statistics
from llasa_jax.metrics.text import normalise
from llasa_jax.recipes import long, stages
from llasa_jax.recipes.measure import hear, machine
from llasa_jax.recipes.say import SLOTS, load_voice, speak_text
from llasa_jax.recipes.strategy import Search
from llasa_jax.text.reconcile import LOST, REPEATED
from llasa_jax.text.sentences import Chunk
from llasa_jax.verifiers.external import Judge, Pocketsphinx
from llasa_jax.verifiers.protocol import ensure_judge_differs
from llasa_jax.verifiers.recogniser import BatchRecogniser

HELD_OUT = 1_000  # sentences that texts are made of
PARAGRAPH = 6  # sentences
TAMPERED = 0.1  # of the sentences that are cut out, and as many that are doubled
PRESENT = 0.5  # of a sentence's content words
FUNCTION_WORDS = frozenset(
    "a an and are as at be been being but by can could did do does for from had has have he her "
    "his i if in into is it its no nor not of on or our out over she so some such than that the "
    "their them then there these they this those to under up upon was we were what when where "
    "which who whom whose will with would you your one".split()
)


def eval_longtext(
    model: Path,
    *,
    texts: int = 10,
    shortest: int = 500,
    longest: int = 2000,
    candidates: int = 16,
    out: Path | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Speaks texts of even steps from `shortest` to `longest` words with the model's usual voice.

    Args:
        out: folder for each text, its sound and its record.

    Raises:
        UserError: the numbers make no text, or model, judge or flite cannot be used.
    """
    if not (texts >= 1 and 1 <= shortest <= longest):
        raise UserError(f"--texts {texts}, --words {shortest},{longest}: make no text")
    corpus = FliteEnglish(default_cache())
    search = Search(candidates=candidates)
    speaker, name = load_voice(model, search, slots=SLOTS)
    judge = Pocketsphinx()
    ensure_judge_differs([*search.verifiers, "recogniser"], judge.name)
    recogniser = BatchRecogniser(*stages.load_recogniser(speaker.folder, "recogniser"), batch=8)
    rows = []
    for number in range(texts):
        words = round(shortest + (longest - shortest) * number / max(1, texts - 1))
        own = seed + number
        text = compose(corpus.held_out(HELD_OUT), words, random.Random(own))
        speech = speak_text(speaker, text, name=name, search=search, seed=own)
        read = reading(speech, corpus, name)
        found = {
            "text": number,
            "words": len(text.split()),
            "sentences": len(speech.sentences),
            "audio_seconds": len(speech.wave) / speech.rate,
            "rtf": speech.seconds * speech.rate / len(speech.wave),
            "heard": speech.history,
            "present": present(judge, speech),
            "reading": {"present": present(judge, read), "tampered": tamper(recogniser, read, own)},
            "tampered": tamper(recogniser, speech, own),
            "jumps": jumps(speech),
        }
        rows.append(found)
        log(f"text {number + 1} of {texts}: {found['words']} words, {found['present']}")
        if out is not None:
            out.mkdir(parents=True, exist_ok=True)
            (out / f"{number}.txt").write_text(text + "\n")
            sound = encode(speech.wave, speech.rate, "flac", {"comment": "synthetic speech"})
            (out / f"{number}.flac").write_bytes(sound)
            stages.write_json(out / f"{number}.json", speech.record() | {"row": found})
    return summary(rows) | {
        "data": "synthetic speech; texts of held-out WordNet glosses",
        "voice": name,
        "candidates": candidates,
        "judge": judge.name,
        "seed": seed,
        "machine": machine(),
        "texts": rows,
    }


def compose(sentences: Sequence[str], words: int, draw: random.Random) -> str:
    """A text of at least so many words of different sentences, in paragraphs.

    Raises:
        UserError: there are too few of them.
    """
    chosen: list[str] = []
    for sentence in draw.sample(sentences, len(sentences)):
        chosen.append(f"{sentence[0].upper()}{sentence[1:]}.")
        if sum(len(one.split()) for one in chosen) >= words:
            starts = range(0, len(chosen), PARAGRAPH)
            return "\n\n".join(" ".join(chosen[i : i + PARAGRAPH]) for i in starts)
    raise UserError(f"--words {words}: more than the held-out sentences have")


def reading(speech: long.Speech, corpus: FliteEnglish, name: str) -> long.Speech:
    """The same sentences as flite reads them in that voice."""

    def read(number: int, text: str) -> long.Piece:
        wave, source = corpus.speak(text, name)
        wave = level(trim_silence(resample(wave, source, speech.rate), speech.rate))
        return long.Piece(Chunk(text, (number,), "sentence"), wave, {})

    pieces = [read(number, one.spoken) for number, one in enumerate(speech.sentences)]
    return replace(speech, pieces=pieces).joined()


def present(judge: Judge, speech: long.Speech) -> dict[str, Any]:
    """Of how many sentences the judge hears enough content words in the sentence's window."""
    windows = [slice(*speech.span(i)) for i in range(len(speech.sentences))]
    heard = hear(judge, [speech.wave[window] for window in windows])
    shares = [share_of(one.spoken, text) for one, text in zip(speech.sentences, heard, strict=True)]
    found = np.array([share >= PRESENT for share in shares])
    interval = statistics.mean(found)
    return {
        "sentences": int(found.sum()),
        "of": len(found),
        "rate": float(found.mean()),
        "interval": [interval.low, interval.high],
        "content_words": float(np.mean(shares)),
    }


def share_of(spoken: str, heard: str) -> float:
    """Of a sentence's content words, those that are heard in their order; 1 where it has none."""
    words = normalise(spoken).split()
    content = [word not in FUNCTION_WORDS for word in words]
    if not any(content):
        return 1.0
    hit = np.zeros(len(words), bool)
    if heard := normalise(heard):
        for part in jiwer.process_words(" ".join(words), heard).alignments[0]:
            if part.type == "equal":
                hit[part.ref_start_idx : part.ref_end_idx] = True
    return float(hit[content].mean())


def tamper(recogniser: Judge, speech: long.Speech, seed: int) -> dict[str, int]:
    """Cuts sentences out of the sound and doubles others; how many the reconciliation finds.

    Sentences whose loss or repetition was heard before do not take part.
    """
    draw = random.Random(seed)
    before = long.listen(recogniser, speech)
    alone = [p.chunk.sentences[0] for p in speech.pieces if len(p.chunk.sentences) == 1]
    fine = [i for i in sorted(set(alone)) if before[i].status == "ok"]
    count = min(max(1, round(TAMPERED * len(speech.sentences))), len(fine) // 2)
    chosen = draw.sample(fine, 2 * count)
    cut, doubled = set(chosen[:count]), set(chosen[count:])
    waves = []
    for number in range(len(speech.sentences)):
        own = [p.wave for p in speech.pieces if p.chunk.sentences[0] == number]
        waves += own * (0 if number in cut else 2 if number in doubled else 1)
    wave, _ = join(waves, [long.PAUSES["sentence"]] * (len(waves) - 1), speech.rate)
    found = long.heard_in(recogniser, wave, speech.rate, speech.sentences)
    others = [i for i in fine if i not in cut | doubled]
    return {
        "cut": count,
        "cut_found": sum(found[i].status == LOST for i in cut),
        "doubled": count,
        "doubled_found": sum(found[i].status == REPEATED for i in doubled),
        "others": len(others),
        "others_flagged": sum(found[i].status in (LOST, REPEATED) for i in others),
    }


def jumps(speech: long.Speech) -> dict[str, float]:
    """The greatest step from a sample to the next: within 20 ms of joins, and inside of pieces."""
    steps = np.abs(np.diff(speech.wave))
    near = np.zeros(len(steps), bool)
    margin = speech.rate // 50
    for start, stop in speech.spans:
        near[max(0, start - margin) : start + margin] = True
        near[max(0, stop - margin) : stop + margin] = True
    inside = steps[~near] if (~near).any() else steps
    return {"joins": float(steps[near].max()), "inside": float(inside.max())}


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """All texts together."""

    def total(*path: str) -> int:
        found = 0
        for row in rows:
            value: Any = row
            for key in path:
                value = value[key]
            found += value
        return found

    keys = ("cut", "cut_found", "doubled", "doubled_found", "others", "others_flagged")
    return {
        "present": total("present", "sentences"),
        "sentences": total("present", "of"),
        "whole_texts": sum(row["present"]["sentences"] == row["sentences"] for row in rows),
        "reading_present": total("reading", "present", "sentences"),
        "tampered": {key: total("tampered", key) for key in keys},
        "reading_tampered": {key: total("reading", "tampered", key) for key in keys},
        "click": any(row["jumps"]["joins"] > row["jumps"]["inside"] for row in rows),
        "seconds_a_second": float(np.mean([row["rtf"] for row in rows])),
    }


def lines(found: dict[str, Any]) -> str:
    """What `summary` found, to be read."""
    mine, read = found["tampered"], found["reading_tampered"]
    sentences = found["sentences"]
    return "\n".join(
        [
            f"sentences there: {found['present']} of {sentences}, of flite's own reading "
            f"{found['reading_present']}; texts with all of them: {found['whole_texts']} of "
            f"{len(found['texts'])}",
            *(
                f"{who}: {one['cut_found']} of {one['cut']} that were cut out found, "
                f"{one['doubled_found']} of {one['doubled']} doubled ones, of {one['others']} "
                f"others {one['others_flagged']} flagged"
                for who, one in (("spoken", mine), ("flite's reading", read))
            ),
            f"seconds a second of sound: {found['seconds_a_second']:.2f}",
        ]
    )
