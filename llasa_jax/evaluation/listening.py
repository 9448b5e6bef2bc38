"""A page on which people score what models say, blind, and what their scores come to.

The paper's test of text understanding: experts give each sentence 1 to 3 (its section on text
understanding; the wording of the three steps is ours). Which model said what stands in a file of
its own, so that the page does not tell.
"""

import base64
import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llasa_jax.audio.io import read_audio
from llasa_jax.errors import UserError
from llasa_jax.evaluation.page import json_bytes, mp3, template, write_files
from llasa_jax.evaluation.tables import Table, number, words
from llasa_jax.metrics import statistics

SCALE = {
    1: "The text is not understood: wrong words, or a tone that does not fit at all.",
    2: "Partly: every word is there, but the tone, the pauses or a reading are not what is meant.",
    3: "As an attentive reader would say it.",
}
SCRIPT = Path(__file__).with_name("listen.js")
MAX_PAGE_BYTES = 120_000_000
MAX_RATINGS_BYTES = 1 << 22


def write_listening(
    folder: Path, runs: Mapping[str, tuple[Path, Sequence[Mapping[str, Any]]]], seed: int
) -> Path:
    """Writes `listen.html`, to be given to listeners, and `listen.json`, to be kept, into `folder`.

    Args:
        runs: by system's name its folder, with `waves`, and its rows (`tts_summary`).
        seed: of the order of sentences and of systems below each.

    Returns:
        The path of the page.

    Raises:
        UserError: an utterance has another text in each run, or the page would be too large.
    """
    by_id: dict[str, dict[str, tuple[Path, Mapping]]] = {}
    for name, (place, rows) in runs.items():
        for row in rows:
            by_id.setdefault(row["id"], {})[name] = (place, row)
    draw = random.Random(seed)
    clips, entries, size = {}, [], 0
    for utterance, said in by_id.items():
        texts = {row["text"] for _, row in said.values()}
        if len(texts) > 1:
            raise UserError(f"listen: utterance {utterance} has another text in each run")
        shown = []
        for name, (place, row) in draw.sample(sorted(said.items()), len(said)):
            clip = hashlib.sha256(f"{seed}\n{name}\n{utterance}".encode()).hexdigest()[:12]
            clips[clip] = {"system": name, "id": utterance, "category": row["category"]}
            if not row["sound"]:
                clips[clip]["score"] = 1  # nothing was said: nobody need listen
                continue
            wave, rate = read_audio(place / "waves" / f"{utterance}.wav")
            source = base64.b64encode(mp3(wave, rate)).decode()
            size += len(source)
            shown.append({"clip": clip, "source": f"data:audio/mpeg;base64,{source}"})
        if shown:
            category = next(iter(said.values()))[1]["category"]
            entries.append({"text": texts.pop(), "category": category, "clips": shown})
    if size > MAX_PAGE_BYTES:
        limit = MAX_PAGE_BYTES // 1_000_000
        raise UserError(f"listen: the sounds take {size // 1_000_000} MB, over {limit}; name fewer")
    draw.shuffle(entries)
    script = SCRIPT.read_text()
    digest = hashlib.sha256(json.dumps(clips, sort_keys=True).encode()).hexdigest()[:16]
    page = template("listen.html.jinja").render(
        entries=entries,
        scale=SCALE,
        page=digest,
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        words=words,
        count=sum(len(entry["clips"]) for entry in entries),
    )
    key = {"page": digest, "seed": seed, "clips": clips}
    write_files(folder, {"listen.html": page.encode(), "listen.json": json_bytes(key)})
    return folder / "listen.html"


def ratings(key: Path, files: Sequence[Path]) -> dict[str, Any]:
    """What listeners' files come to.

    Args:
        key: `listen.json`, or its folder.
        files: what the page saved, one of each listener.

    Returns:
        JSON-able: `scores`, by system and category ("all" for all) the mean with its interval over
        sentences (a sentence's score is the mean of its listeners'); `raters`; `unrated` clips and
        `refused` scores, named and counted.

    Raises:
        UserError: the key or a file is no such file, or of another page.
    """
    key = key / "listen.json" if key.is_dir() else key
    known = _read(key, {"page", "clips"})
    given: dict[str, list[int]] = {
        clip: [about["score"]] for clip, about in known["clips"].items() if "score" in about
    }
    raters, refused = [], []
    for path in files:
        found = _read(path, {"page", "rater", "ratings"})
        if found["page"] != known["page"]:
            raise UserError(f"{path}: rates another page than {key}; give its own listen.json")
        raters.append(str(found["rater"])[:80])
        for clip, score in found["ratings"].items():
            if clip not in known["clips"] or score not in SCALE or isinstance(score, bool):
                refused.append(f"{path.name}: {clip[:20]} {str(score)[:20]}")
            else:
                given.setdefault(clip, []).append(score)
    scores: dict[str, dict[str, list[float]]] = {}
    for clip, own in given.items():
        about, score = known["clips"][clip], sum(own) / len(own)
        by_category = scores.setdefault(about["system"], {})
        for category in ("all", about["category"]):
            by_category.setdefault(category, []).append(score)
    return {
        "scores": {
            system: {name: statistics.mean(own).to_json() for name, own in sorted(by.items())}
            for system, by in sorted(scores.items())
        },
        "raters": raters,
        "unrated": sorted(known["clips"].keys() - given.keys()),
        "refused": refused,
    }


def _read(path: Path, needed: set[str]) -> dict[str, Any]:
    try:
        if path.stat().st_size > MAX_RATINGS_BYTES:
            raise ValueError(f"over {MAX_RATINGS_BYTES >> 20} MiB")
        found = json.loads(path.read_text(encoding="utf-8"))
        parts = [found[name] for name in needed]
        inner = found.get("clips", found.get("ratings"))
        if not parts or not isinstance(inner, dict):
            raise ValueError("not as the page saves it")
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path}: no readable file of scores ({error}); save it again") from error
    return found


def rating_table(found: Mapping[str, Any]) -> Table:
    """A row a category, a column a system."""
    systems = list(found["scores"])
    names = sorted({name for by in found["scores"].values() for name in by} - {"all", ""})
    rows = []
    for name in [*names, "all"]:
        cells = []
        for system in systems:
            one = found["scores"][system].get(name)
            low_high = f"{number(one['low'], 2)} to {number(one['high'], 2)}" if one else ""
            cells.append(f"{number(one['value'], 2)} ({low_high})" if one else "-")
        rows.append((words(name), *cells))
    note = f"Scores from 1 to 3 by {len(found['raters'])} listeners, with 95 % intervals over "
    note += f"sentences; {len(found['unrated'])} clips not rated, {len(found['refused'])} refused."
    return Table("Text understanding", ("Category", *systems), rows, note)
