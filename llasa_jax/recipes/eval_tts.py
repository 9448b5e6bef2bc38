"""`llasa eval tts`: lists spoken by models and judged, in the layout of the paper's tables.

Utterances go in blocks, each block to one process: a run on two processes leaves what a run on one
does. Every utterance leaves its wave and its row, named by what it hangs on; a run that was
interrupted goes on, and another judge hears what is there already.
"""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from llasa_jax import __version__, console
from llasa_jax.audio.io import read_audio, write_audio
from llasa_jax.console import bar, log
from llasa_jax.errors import UserError
from llasa_jax.evaluation.lists import EvalSet, Item
from llasa_jax.evaluation.page import json_bytes, write_files
from llasa_jax.evaluation.scorers import KINDS, RATE, Listeners, Scorer, parse_scorers
from llasa_jax.evaluation.tts_report import write_tts_report
from llasa_jax.evaluation.tts_summary import compare, describe
from llasa_jax.metrics import seed_tts
from llasa_jax.metrics.seed_tts import Language
from llasa_jax.parallel.distributed import connect
from llasa_jax.recipes.eval_sets import FLITE, the_set
from llasa_jax.recipes.measure import machine
from llasa_jax.recipes.stages import model_folder, write_json
from llasa_jax.recipes.talking import RECORDED, Talker, TalkSettings

BLOCK = 16  # utterances that are spoken and judged together
USUAL = {FLITE: ("pocketsphinx", "content", "ge2e")}


class Clock:
    """Seconds by what they went to; what is left of the wall time is overhead."""

    def __init__(self):
        self.begin, self.parts = time.monotonic(), {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        start = time.monotonic()
        try:
            yield
        finally:
            self.parts[name] = self.parts.get(name, 0.0) + time.monotonic() - start

    def report(self) -> dict[str, Any]:
        """Seconds, and the share that neither models nor their loading took."""
        wall = time.monotonic() - self.begin
        left = wall - sum(self.parts.values())
        return {"wall_s": wall, "parts_s": self.parts, "overhead": left / wall}


def eval_tts(
    what: str,
    models: Sequence[Path],
    settings: TalkSettings,
    *,
    scorers: Sequence[str] = (),
    language: Language | None = None,
    utterances: int | None = None,
    out: Path,
) -> dict[str, Any]:
    """Speaks a list with each model and strategy, and has it judged.

    Args:
        what: as `eval_sets.the_set`.
        scorers: NAME or NAME=PATH each (`scorers.KINDS`).
        utterances: at most so many of the list's first ones.
        out: folder for waves, rows, `summary.json` and the page.

    Returns:
        What `summary.json` holds, and `timing`, `machine`; of several processes, in all but the
        first, the refused lines alone.

    Raises:
        UserError: the list, a model or a judge is of no use, or `out` holds a run of another
            configuration.
    """
    join()
    clock = Clock()
    which = the_set(what, language, utterances)
    paths = parse_scorers(scorers or USUAL.get(what, ()))
    if not paths:
        raise UserError("eval tts: who judges? name at least one with --scorer")
    labels = [label_of(model) for model in models]
    if len(set(labels)) < len(labels):
        raise UserError(f"eval tts: models are called {', '.join(labels)}; rename one's folder")
    runs: list[Run] = []
    listeners = Listeners(paths, None, which.language)
    for model, label in zip(models, labels, strict=True):
        with clock("load"):
            talker = Talker(model, settings, which, listeners)
            judges = [talker.listeners.scorer(name) for name in paths]
        own = [Run(out / label / s, talker, s, label, judges) for s in settings.strategies]
        speak_and_judge(own, which, clock)
        runs += own
        talker.release()
    with together("llasa eval tts"):
        if jax.process_index() != 0:
            return {"refused": [asdict(one) for one in which.refused]}
        found = summary(which, runs, list(paths))
        more = {"timing": clock.report(), "machine": machine()}
        page = write_tts_report(
            out, found, {run.title: (run.folder, run.rows(which)) for run in runs}
        )
        write_files(out, {"timing.json": json_bytes(more)})
    overhead = more["timing"]["overhead"]
    log(f"{page}: {overhead:.1%} of the wall time went to neither models nor their loading")
    return found | more


def join() -> None:
    """Makes this process one of several, if the environment says so; all but the first are silent.

    Raises:
        UserError: as `connect`.
    """
    connect()
    if jax.process_index() != 0:
        console.silence()


@contextmanager
def together(name: str) -> Iterator[None]:
    """What comes after all processes' work, and before any of them ends: one that ended early would
    take the others with it."""
    if jax.process_count() == 1:
        yield
        return
    multihost_utils.sync_global_devices(name)
    try:
        yield
    finally:
        multihost_utils.sync_global_devices(f"{name}: done")


def label_of(model: Path) -> str:
    """What a model's results are called: its folder's name, or of `NAME/model` the folder above."""
    folder = model_folder(model).resolve()
    return folder.parent.name if folder.name == "model" else folder.name


class Run:
    """One row of the table: a model and a strategy, with what it keeps in `folder`.

    Raises:
        UserError: the folder holds a run of another configuration.
    """

    def __init__(
        self, folder: Path, talker: Talker, strategy: str, label: str, judges: Sequence[Scorer]
    ):
        self.folder, self.talker, self.strategy = folder, talker, strategy
        self.title, self.judges = f"{label}, {strategy}", judges
        which = talker.which
        self.about = {
            "version": __version__,
            "model": talker.fingerprint,
            "settings": talker.settings.of(strategy),
            "chosen_by": talker.settings.choosing(strategy),
            "language": which.language,
            "continues": which.continues,
        }
        for name in ("rows", "waves"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        path = folder / "run.json"
        if path.is_file():
            ensure_same(path, read_json(path), json.loads(json.dumps(self.about)))
        elif jax.process_index() == 0:
            write_json(path, self.about)

    def wave_path(self, item: Item) -> Path:
        return self.folder / "waves" / f"{item.id}.wav"

    def row(self, item: Item) -> dict | None:
        """What was kept of an utterance, if it is there whole and of this very utterance."""
        row = read_json(self.folder / "rows" / f"{item.id}.json")
        whole = row.get("key") == self.talker.key(item, self.strategy)
        return row if whole and (not row["sound"] or self.wave_path(item).is_file()) else None

    def has_other(self, item: Item) -> bool:
        """Whether what is kept under an utterance's id is of another text, or not whole."""
        return (self.folder / "rows" / f"{item.id}.json").is_file() and self.row(item) is None

    def keep(self, item: Item, row: Mapping[str, Any]) -> None:
        write_json(self.folder / "rows" / f"{item.id}.json", dict(row))

    def rows(self, which: EvalSet) -> list[dict]:
        """All rows, in the list's order.

        Raises:
            UserError: some are not there.
        """
        found = [self.row(item) for item in which.items]
        missing = sum(row is None for row in found)
        if missing:
            raise UserError(
                f"{self.folder}: {missing} of {len(found)} utterances are missing; run it again"
            )
        return [row for row in found if row is not None]


def read_json(path: Path) -> dict[str, Any]:
    """What a file holds; nothing if it is not there, or no JSON object."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def ensure_same(path: Path, kept: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """UserError naming what differs between what a folder holds and what is asked for."""
    for name in sorted(kept.keys() | wanted.keys()):
        if kept.get(name) != wanted.get(name):
            raise UserError(
                f"{path.parent}: holds results of another configuration: {name} was "
                f"{kept.get(name)}, is {wanted.get(name)}; give another --out"
            )


def speak_and_judge(runs: Sequence[Run], which: EvalSet, clock: Clock) -> None:
    """Everything of one model that is not there yet, this process's share of the blocks."""
    talker = runs[0].talker
    starts = range(0, len(which.items), BLOCK)[jax.process_index() :: jax.process_count()]
    blocks = [which.items[start : start + BLOCK] for start in starts]
    total = sum(map(len, blocks))
    again = 0
    with bar(f"speak and judge {which.name}", total, "utterances") as progress:
        for items in blocks:
            # A block that lacks anything is spoken whole, so that what one utterance sounds like
            # never hangs on what was there.
            lacking = [run for run in runs if any(run.row(item) is None for item in items)]
            again += sum(run.has_other(item) for run in lacking for item in items)
            if lacking:
                with clock("speak"):
                    spoken = talker.speak(items, [run.strategy for run in lacking])
                for run in lacking:
                    for item, one in zip(items, spoken[run.strategy], strict=True):
                        if one.wave is not None:
                            write_audio(run.wave_path(item), one.wave, RATE)
                        run.keep(item, new_row(run, item, one.wave, one.about))
            for run in runs:
                judge(run, items, clock)
            progress.advance(len(items))
    if again:
        log(f"{which.name}: {again} rows were of other texts or voices, or not whole: made again")


def new_row(run: Run, item: Item, wave: np.ndarray | None, about: Mapping[str, Any]) -> dict:
    """What is known of an utterance before it is judged."""
    return {
        "id": item.id,
        "key": run.talker.key(item, run.strategy),
        "text": item.text,
        "category": item.category if item.prompt is None else "",
        "voice": item.prompt.name if item.prompt else "",
        "sound": wave is not None,
        "seconds": None if wave is None else round(len(wave) / RATE, 4),
        "scores": {},
        "scored_by": {},
        **about,
    }


def judge(run: Run, items: Sequence[Item], clock: Clock) -> None:
    """Has a block's utterances judged by all who have not heard all of them."""
    rows = {item.id: run.row(item) for item in items}
    sounding = [item for item in items if rows[item.id]["sound"]]
    asked = [
        one
        for one in run.judges
        if any(rows[item.id]["scored_by"].get(one.name) != one.source for item in items)
    ]
    if not asked:
        return
    waves = {item.id: read_audio(run.wave_path(item))[0] for item in sounding}
    for one in asked:
        with clock(f"judge {one.name}"):
            scores = _scores(run, one, sounding, waves) if sounding else {}
        for item in items:
            row = rows[item.id]
            row["scored_by"][one.name] = one.source
            if item.id in scores:
                row["scores"][one.name] = scores[item.id]
    for item in items:
        run.keep(item, rows[item.id])


def _scores(
    run: Run, scorer: Scorer, items: Sequence[Item], waves: Mapping[str, np.ndarray]
) -> dict[str, dict]:
    """What a judge says of each utterance, by its id."""
    talker = run.talker
    if scorer.kind == "words":
        heard = scorer.judge([_whole(run, item, waves[item.id]) for item in items])
        found = {}
        for item, text in zip(items, heard, strict=True):
            wrong = seed_tts.errors(item.text, text, talker.which.language)
            found[item.id] = {"heard": text, "errors": list(wrong), "rate": wrong.rate}
        return found
    if scorer.kind == "quality":
        values = scorer.judge([waves[item.id] for item in items])
        return {
            item.id: {"value": float(x) if np.isfinite(x) else None}
            for item, x in zip(items, values, strict=True)
        }
    near = scorer.judge([waves[item.id] for item in items])
    found = {}
    for item, own in zip(items, near, strict=True):
        try:
            targets = talker.heard_voice(item)
        except UserError:  # a recording that is broken: named with the utterance's own failure
            targets = {}
        found[item.id] = {
            key: float(own @ _target(scorer, talker, item, key, wave))
            for key, wave in sorted(targets.items())
        }
    return found


def _target(scorer: Scorer, talker: Talker, item: Item, key: str, wave: np.ndarray) -> np.ndarray:
    """The embedding of what an item's speech is compared with; many items share a prompt."""
    name = scorer.name, key, item.prompt or talker.voiced(item).name
    if name not in talker.targets:
        talker.targets[name] = scorer.judge([wave])[0]
    return talker.targets[name]


def _whole(run: Run, item: Item, wave: np.ndarray) -> np.ndarray:
    """What says all of an item's text: of one that was continued, its beginning as well."""
    if not run.talker.which.continues or run.strategy in RECORDED:
        return wave
    return np.concatenate([run.talker.heard_voice(item)["o"], wave])


def summary(which: EvalSet, runs: Sequence[Run], scorers: Sequence[str]) -> dict[str, Any]:
    """All figures, JSON-able, the same bytes for the same rows.

    Two runs are compared where they differ in the strategy alone, or in the model alone.
    """
    rows = {run.title: run.rows(which) for run in runs}
    found: dict[str, Any] = {
        "set": which.name,
        "set_hash": which.hash,
        "language": which.language,
        "utterances": len(which.items),
        "continues": which.continues,
        "refused": [asdict(one) for one in which.refused],
        "kinds": {name: KINDS[name] for name in scorers},
        "runs": [],
        "differences": [],
    }
    for run in runs:
        about = {"title": run.title, "strategy": run.strategy} | run.about
        about["scorers"] = {one.name: one.source for one in run.judges}
        found["runs"].append(about | describe(rows[run.title], scorers))
    for i, run in enumerate(runs):
        for other in runs[i + 1 :]:
            same = run.talker is other.talker, run.strategy == other.strategy
            if any(same):
                names = run.title, other.title
                sources = [dict((one.name, one.source) for one in r.judges) for r in (run, other)]
                alike = [name for name in scorers if sources[0][name] == sources[1][name]]
                found["differences"].append(
                    compare(rows[run.title], rows[other.title], alike, names)
                )
    return found
