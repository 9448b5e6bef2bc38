"""What is made of runs of `llasa eval tts`: `llasa eval compare`, `llasa eval listen`."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llasa_jax.console import log
from llasa_jax.errors import UserError
from llasa_jax.evaluation.listening import write_listening
from llasa_jax.evaluation.scorers import KINDS
from llasa_jax.evaluation.tts_summary import compare


def eval_compare(one: Path, other: Path) -> dict[str, Any]:
    """The second run against the first, over the utterances that both have.

    Returns:
        JSON-able: `differences`, as `tts_summary.compare` (one entry); `differs`, what of the two
        configurations is not the same; `partial`, the runs that never came to their end, with
        the utterances there; `judges_left_out`, those that are not the same in both.

    Raises:
        UserError: a folder holds no run, the runs are of two languages, no judge heard both, or as
            `tts_summary.compare`.
    """
    runs = [read_run(folder) for folder in (one, other)]
    (about, rows, whole), (about_2, rows_2, whole_2) = runs
    if about["language"] != about_2["language"] or about["continues"] != about_2["continues"]:
        raise UserError(f"compare: {one} and {other} are of other kinds of lists; not comparable")
    judges = [_judges(row) for row in (rows, rows_2)]
    alike = [n for n in KINDS if n in judges[0] and judges[0][n] == judges[1].get(n)]
    if not alike:
        raise UserError(f"compare: no judge heard both {one} and {other}; score one again")
    names = _names(one, other)
    ends = zip(names, (rows, rows_2), (whole, whole_2), strict=True)
    partial = {name: len(kept) for name, kept, done in ends if not done}
    for folder, count in partial.items():
        log(f"{folder}: its run never came to its end; {count} utterances are there")
    found = compare(rows, rows_2, alike, names)
    for folder, count in found["only_in"].items():
        if count:
            log(f"{folder}: {count} utterances are in this run alone, and left out")
    return {
        "differences": [found],
        "differs": sorted(
            k for k in about.keys() | about_2.keys() if about.get(k) != about_2.get(k)
        ),
        "partial": partial,
        "judges_left_out": sorted((judges[0].keys() | judges[1].keys()) - set(alike)),
    }


def _names(one: Path, other: Path) -> tuple[str, str]:
    """What tells two folders apart: their paths below the folder that holds both."""
    paths = one.resolve(), other.resolve()
    shared = os.path.commonpath(paths)
    first, second = (os.path.relpath(path, shared) for path in paths)
    return (str(one), str(other)) if "." in (first, second) else (first, second)


def eval_listen(folders: Sequence[Path], out: Path, seed: int = 0) -> Path:
    """The page on which people score these runs, blind; as `listening.write_listening`."""
    runs = {}
    for folder in folders:
        about, rows, _ = read_run(folder)
        name = f"{folder.resolve().parent.name}, {about['settings']['strategy']}"
        if name in runs:
            raise UserError(f"listen: two runs are called {name}; rename a folder")
        runs[name] = (folder, rows)
    return write_listening(out, runs, seed)


def read_run(folder: Path) -> tuple[dict, list[dict], bool]:
    """A run's configuration, its rows, and whether they are all of its list.

    Raises:
        UserError: the folder holds no readable run, or one without an utterance.
    """
    try:
        about = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        lines = folder / "utterances.jsonl"
        whole = lines.is_file()
        texts = lines.read_text(encoding="utf-8").splitlines() if whole else []
        if not whole:
            texts = [path.read_text() for path in sorted((folder / "rows").glob("*.json"))]
        rows = [json.loads(text) for text in texts]
        if not all(about.keys() >= {"language", "continues"} and _is_row(row) for row in rows):
            raise ValueError("not as `llasa eval tts` writes it")
    except FileNotFoundError as error:
        raise UserError(
            f"{folder}: holds no run; give OUT/MODEL/STRATEGY of an eval tts"
        ) from error
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise UserError(f"{folder}: no readable run ({error}); run eval tts again") from error
    if not rows:
        raise UserError(f"{folder}: its run has no utterance yet; run eval tts again")
    return about, rows, whole


def _is_row(row: Any) -> bool:
    keys = {"id", "text", "status", "sound", "scores", "scored_by"}
    return isinstance(row, dict) and row.keys() >= keys


def _judges(rows: list[dict]) -> dict[str, str]:
    """Judges that heard every row, with their sources."""
    first = rows[0]["scored_by"]
    return {
        name: source
        for name, source in first.items()
        if name in KINDS and all(row["scored_by"].get(name) == source for row in rows)
    }
