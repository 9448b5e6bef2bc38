"""`llasa eval asr`: what models hear in a list's recordings, against its texts.

The language model itself, where it learned both directions, and judges of words beside it. Word
error is LibriSpeech's: errors over words of the whole list, texts in lower case without punctuation
(of Chinese, characters as seed-tts-eval counts them).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax
import numpy as np

from llasa_jax.audio.io import read_audio
from llasa_jax.console import bar
from llasa_jax.errors import UserError
from llasa_jax.evaluation import published
from llasa_jax.evaluation.lists import EvalSet, Item
from llasa_jax.evaluation.page import json_bytes, write_files
from llasa_jax.evaluation.scorers import KINDS, RATE, Listeners, parse_scorers
from llasa_jax.evaluation.tables import NOT_MEASURED, Table, number, percent, with_interval
from llasa_jax.interop.bundle import part_hash
from llasa_jax.metrics import seed_tts, statistics
from llasa_jax.metrics.seed_tts import Language
from llasa_jax.metrics.text import word_errors
from llasa_jax.recipes.eval_sets import the_set
from llasa_jax.recipes.eval_tts import (
    BLOCK,
    Clock,
    ensure_same,
    join,
    read_json,
    together,
)
from llasa_jax.recipes.measure import machine
from llasa_jax.recipes.stages import load_codec, load_language, model_folder, write_json
from llasa_jax.verifiers.dictation import Dictation

ITSELF = "self"


def eval_asr(
    what: str,
    model: Path,
    *,
    scorers: Sequence[str] = (),
    language: Language | None = None,
    utterances: int | None = None,
    out: Path,
) -> dict[str, Any]:
    """Has a list's recordings heard by the model, and by judges of words.

    Args:
        what: as `eval_sets.the_set`; of a line its recording of the text is heard, else its
            prompt's.
        scorers: NAME or NAME=PATH each, of words.
        out: folder for rows and `asr.json`; the same command goes on there.

    Returns:
        What `asr.json` holds, and `timing`, `machine`; of several processes, in all but the first,
        the refused lines alone.

    Raises:
        UserError: the list or a judge is of no use, or `out` holds another configuration's rows.
    """
    join()
    clock = Clock()
    which = the_set(what, language, utterances)
    paths = parse_scorers(scorers)
    for name in paths:
        if KINDS[name] != "words":
            raise UserError(f"scorer {name}: hears no words; eval asr takes those that do")
    folder = model_folder(model)
    with clock("load"):
        listeners = Listeners(paths, folder, which.language)
        judges: dict[str, tuple[str, Callable]] = {ITSELF: _itself(folder)}
        for name in paths:
            one = listeners.scorer(name)
            judges[name] = one.source, one.judge
    for name, (source, hear) in judges.items():
        place = out / name
        (place / "rows").mkdir(parents=True, exist_ok=True)
        about = {"judge": name, "source": source, "language": which.language}
        if (place / "run.json").is_file():
            ensure_same(place / "run.json", read_json(place / "run.json"), about)
        elif jax.process_index() == 0:
            write_json(place / "run.json", about)
        _hear_all(which, place / "rows", name, hear, clock)
    with together("llasa eval asr"):
        if jax.process_index() != 0:
            return {"refused": [asdict(one) for one in which.refused]}
        found = _summary(which, out, {name: source for name, (source, _) in judges.items()})
        more = {"timing": clock.report(), "machine": machine()}
        write_files(out, {"asr.json": json_bytes(found), "timing.json": json_bytes(more)})
    return found | more


def _itself(folder: Path) -> tuple[str, Callable]:
    config, params, vocabulary, _ = load_language(folder)
    source = f"{part_hash(folder, 'lm')} {part_hash(folder, 'codec')}"
    return source, Dictation(config, params, vocabulary, load_codec(folder)).transcribe


def _hear_all(which: EvalSet, folder: Path, name: str, hear: Callable, clock: Clock) -> None:
    """This process's share of the blocks of what one judge has not heard yet."""
    starts = range(0, len(which.items), BLOCK)[jax.process_index() :: jax.process_count()]
    with bar(f"{name} hears {which.name}", len(which.items), "utterances") as progress:
        for items in (which.items[start : start + BLOCK] for start in starts):
            rows = {item.id: _row(item) for item in items}
            kept = [read_json(folder / f"{item.id}.json") for item in items]
            same = [
                {k: old.get(k) for k in rows[item.id]} == rows[item.id]
                for item, old in zip(items, kept, strict=True)
            ]
            if not all(same):
                _hear(items, rows, hear, clock, name, which.language)
                for item in items:
                    write_json(folder / f"{item.id}.json", rows[item.id])
            progress.advance(len(items))


def _row(item: Item) -> dict[str, Any]:
    path, text = item.spoken
    return {"id": item.id, "text": text, "recording": None if path is None else path.name}


def _hear(
    items: Sequence[Item],
    rows: Mapping[str, dict],
    hear: Callable,
    clock: Clock,
    name: str,
    language: Language,
) -> None:
    """Adds to each row what was heard and the errors in it, or why nothing was."""
    waves, heard_of = [], []
    for item in items:
        row, path = rows[item.id], item.spoken[0]
        try:
            if path is None:
                raise UserError("the list has no recording of it")
            waves.append(read_audio(path, RATE)[0])
            heard_of.append(item)
        except UserError as error:
            row["why"] = str(error)
    with clock(f"judge {name}"):
        texts = hear(waves) if waves else []
    for item, text in zip(heard_of, texts, strict=True):
        row = rows[item.id]
        row["heard"] = text
        if language == "zh":
            row["errors"] = list(seed_tts.errors(row["text"], text, "zh"))
        else:
            counts = word_errors([row["text"]], [text])
            kinds = (counts.substitutions, counts.deletions, counts.insertions, counts.length)
            row["errors"] = [int(one[0]) for one in kinds]


def _summary(which: EvalSet, out: Path, sources: Mapping[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {
        "set": which.name,
        "set_hash": which.hash,
        "language": which.language,
        "utterances": len(which.items),
        "refused": [asdict(one) for one in which.refused],
        "judges": {},
    }
    for name, source in sources.items():
        rows = [read_json(out / name / "rows" / f"{item.id}.json") for item in which.items]
        missing = sum(not row for row in rows)
        if missing:
            raise UserError(f"{out / name}: {missing} utterances are missing; run it again")
        heard = [row for row in rows if "heard" in row]
        counts = np.array([row["errors"] for row in heard], np.int64).reshape(-1, 4)
        words = counts[:, 3].sum()
        found["judges"][name] = {
            "source": source,
            "wer": statistics.rate(counts[:, :3].sum(1), counts[:, 3]).to_json() if words else None,
            "heard": len(heard),
            "not_heard": {row["id"]: row["why"] for row in rows if "why" in row},
        }
    return found


def asr_table(found: Mapping[str, Any]) -> Table:
    """A row a judge."""
    rows = []
    for name, one in found["judges"].items():
        wer = one["wer"]
        shown = with_interval(wer["value"], [wer["low"], wer["high"]], percent) if wer else None
        missing = len(one["not_heard"])
        rows.append((name, shown or NOT_MEASURED, str(one["heard"]), str(missing)))
    note = f"{found['set']}: errors over words of the whole list, bootstrap over utterances."
    head = ("Recogniser", "Word error (95 %)", "Heard", "No recording")
    return Table("Speech to text, measured here", head, rows, note)


def paper_asr_table(found: Mapping[str, Any]) -> Table:
    """Table 3 of the paper."""
    rows = [(name, number(a), number(b)) for name, (a, b) in published.RECOGNISERS.items()]
    caption = f"Published ({published.PAPER}, table 3): LibriSpeech, word error in percent"
    note = "" if "test-" in found["set"] else "Of another set: hold no number against ours."
    return Table(caption, ("Recogniser", "test-clean", "test-other"), rows, note)
