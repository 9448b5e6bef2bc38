"""`llasa eval longtext`: does a long text come out whole, and is it noticed where it does not?

Texts are made of held-out sentences of the shipped voice's corpus. What was spoken is judged by
who took no part in choosing or mending: a sentence is there if at least half of its content words
are heard in its window. The same sentences spoken by flite say how many a judge would find of a
perfect reading, and each looked for in the next one's window how many by chance. Then sentences are
cut out of the sound and doubled in it on purpose, and the reconciliation must find them.
"""

import functools
import random
from collections.abc import Mapping, Sequence
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
from llasa_jax.evaluation.scorers import OF_LETTERS, Listeners, Scorer
from llasa_jax.interop.bundle import part_hash
from llasa_jax.metrics import statistics
from llasa_jax.metrics.text import normalise
from llasa_jax.recipes import long, stages
from llasa_jax.recipes.measure import machine
from llasa_jax.recipes.say import SLOTS, load_voice, speak_text
from llasa_jax.recipes.strategy import Search
from llasa_jax.text.reconcile import HEARD_WORD, LOST, REPEATED, reconcile
from llasa_jax.text.sentences import Chunk
from llasa_jax.verifiers.external import Judge
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
    scorers: Mapping[str, str] | None = None,
    out: Path | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Speaks texts of even steps from `shortest` to `longest` words with the model's usual voice.

    Args:
        scorers: judges of words, as `parse_scorers` gives them; default: pocketsphinx.
        out: folder for each text, its sound and its record.

    Raises:
        UserError: the numbers make no text, or model, judges or flite cannot be used.
    """
    if not (texts >= 1 and 1 <= shortest <= longest):
        raise UserError(f"--texts {texts}, --words {shortest},{longest}: make no text")
    corpus = FliteEnglish(default_cache())
    search = Search(candidates=candidates)
    speaker, name = load_voice(model, search, slots=SLOTS)
    judges = judges_of(scorers or {"pocketsphinx": ""}, [*search.verifiers], speaker.folder)
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
            "present": {judge.name: present(judge, speech) for judge in judges},
            "reading": {
                "present": {judge.name: present(judge, read) for judge in judges},
                "tampered": tamper(recogniser, read, own),
            },
            "tampered": tamper(recogniser, speech, own),
            "jumps": jumps(speech),
        }
        rows.append(found)
        heard = ", ".join(
            f"{one['sentences']} of {one['of']} by {name}" for name, one in found["present"].items()
        )
        log(f"text {number + 1} of {texts}: {found['words']} words; sentences there: {heard}")
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
        "judges": {judge.name: judge.source for judge in judges},
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


def judges_of(paths: Mapping[str, str], selected: Sequence[str], model: Path) -> list[Scorer]:
    """Who says what was spoken.

    Raises:
        UserError: one cannot be had, hears no words, or has chosen takes.
    """
    found, listeners = [], Listeners(paths, model, "en")
    for name, path in paths.items():
        ensure_judge_differs(selected, name)
        scorer = listeners.scorer(name)
        if scorer.kind != "words":
            raise UserError(f"scorer {name}: hears no words; name another")
        if name == "recogniser" and part_hash(Path(path), name) == part_hash(model, name):
            raise UserError(f"scorer recogniser={path}: it mends the text, too; name another")
        found.append(scorer)
    return found


def present(judge: Scorer, speech: long.Speech) -> dict[str, Any]:
    """Of how many sentences the judge hears enough content words in the sentence's window.

    `by_chance`: how many are heard in the next one's window. `absent`: the numbers of those that
    are not heard.
    """
    log(f"judge {judge.name}: {len(speech.sentences)} sentences")
    windows = [slice(*speech.span(i)) for i in range(len(speech.sentences))]
    heard = judge.judge([speech.wave[window] for window in windows])
    spoken = [one.spoken for one in speech.sentences]
    letters = judge.name in OF_LETTERS
    shares = np.array(list(map(functools.partial(share_of, letters=letters), spoken, heard)))
    others = map(functools.partial(share_of, letters=letters), spoken, heard[1:] + heard[:1])
    found = shares >= PRESENT
    interval = statistics.mean(found)
    return {
        "sentences": int(found.sum()),
        "of": len(found),
        "rate": float(found.mean()),
        "interval": [interval.low, interval.high],
        "content_words": float(shares.mean()),
        "by_chance": sum(share >= PRESENT for share in others),
        "absent": [i for i, here in enumerate(found) if not here],
    }


def share_of(spoken: str, heard: str, letters: bool = False) -> float:
    """Of a sentence's content words, those that are heard in their order; 1 where it has none.

    Args:
        letters: who heard knows no words: one is heard where enough of its letters are, as in the
            reconciliation.
    """
    words = normalise(spoken).split()
    content = np.array([word not in FUNCTION_WORDS for word in words])
    if not content.any():
        return 1.0
    hit = np.zeros(len(words), bool)
    if letters:
        best, start = reconcile([spoken], heard)[0].best, 0
        for place, word in enumerate(words if best else ()):
            hit[place] = best.letters[start : start + len(word)].mean() >= HEARD_WORD
            start += len(word) + 1
    elif heard := normalise(heard):
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
        return sum(functools.reduce(lambda value, key: value[key], path, row) for row in rows)

    def whole(judge: str) -> int:
        return sum(row["present"][judge]["sentences"] == row["sentences"] for row in rows)

    judges = rows[0]["present"]
    keys = ("cut", "cut_found", "doubled", "doubled_found", "others", "others_flagged")
    return {
        "sentences": total("sentences"),
        "present": {name: total("present", name, "sentences") for name in judges},
        "by_chance": {name: total("present", name, "by_chance") for name in judges},
        "whole_texts": {name: whole(name) for name in judges},
        "reading_present": {
            name: total("reading", "present", name, "sentences") for name in judges
        },
        "tampered": {key: total("tampered", key) for key in keys},
        "reading_tampered": {key: total("reading", "tampered", key) for key in keys},
        "click": any(row["jumps"]["joins"] > row["jumps"]["inside"] for row in rows),
        "seconds_a_second": float(np.mean([row["rtf"] for row in rows])),
    }


def lines(found: dict[str, Any]) -> str:
    """What `summary` found, to be read."""
    mine, read = found["tampered"], found["reading_tampered"]
    sentences, texts = found["sentences"], len(found["texts"])
    return "\n".join(
        [
            *(
                f"sentences there, by {name}: {count} of {sentences}, of flite's own reading "
                f"{found['reading_present'][name]}, by chance {found['by_chance'][name]}; texts "
                f"with all of them: {found['whole_texts'][name]} of {texts}"
                for name, count in found["present"].items()
            ),
            *(
                f"{who}: {one['cut_found']} of {one['cut']} that were cut out found, "
                f"{one['doubled_found']} of {one['doubled']} doubled ones, of {one['others']} "
                f"others {one['others_flagged']} flagged"
                for who, one in (("spoken", mine), ("flite's reading", read))
            ),
            f"seconds a second of sound: {found['seconds_a_second']:.2f}",
        ]
    )
