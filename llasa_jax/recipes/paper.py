"""`llasa eval paper`: the paper's table 2 by its released models, held against what it prints.

`launch/paper.sh` makes the folder: `results/SET/summary.json` of `llasa eval tts`, and the plans of
`llasa plan` in `plans/MODEL.json`.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llasa_jax.errors import UserError
from llasa_jax.evaluation import published
from llasa_jax.evaluation.tables import Table, number

SETS = {"en": 1088, "zh": 2020, "hard": 400}  # utterances of seed-tts-eval's lists
# How far from the paper's figure ours may be beside its own interval: points of word error, cosine.
# Two harnesses of one model differ by half a point of word error between papers.
TOLERANCE = {"en": (0.5, 0.01), "zh": (0.5, 0.01), "hard": (1.5, 0.02)}
DATA = "250k"  # hours that the released models learned from
STRATEGIES = {
    "direct": "direct",
    "partial": "process reward",
    "partial+best-of": "process reward + best-of-N",
}
ROWS = {"truth": "Human", "codec": "codec, resynthesised"}


def paper(folder: Path) -> dict[str, Any]:
    """Every figure of ours that the paper has, with both and the verdict.

    Returns:
        JSON-able: `figures`, each {"set", "row", "measure", "ours", "interval", "paper",
        "tolerance", "agrees"}; `outside`, how many do not agree; `missing`, sets that were not run;
        `partial`, sets of which not all utterances were; `chip_hours` by model, estimated.

    Raises:
        UserError: the folder holds no result.
    """
    found: dict[str, Any] = {"figures": [], "missing": [], "partial": {}, "chip_hours": {}}
    for name, count in SETS.items():
        path = folder / "results" / name / "summary.json"
        if not path.is_file():
            found["missing"].append(name)
            continue
        summary = _read(path)
        if summary["utterances"] < count:
            found["partial"][name] = summary["utterances"]
        for run in summary["runs"]:
            found["figures"] += _figures(name, run, summary["kinds"])
    if not found["figures"]:
        raise UserError(f"{folder}: holds no result; run `bash launch/paper.sh {folder}` first")
    found["outside"] = sum(not one["agrees"] for one in found["figures"])
    for path in sorted((folder / "plans").glob("*.json")):
        found["chip_hours"][path.stem] = chip_hours(_read(path))
    return found


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"{path}: no readable result ({error}); run launch/paper.sh again"
        ) from error


def _figures(name: str, run: Mapping[str, Any], kinds: Mapping[str, str]) -> list[dict]:
    label, _, strategy = run["title"].rpartition(", ")
    row = ROWS.get(strategy) or f"{label}-{DATA}, {STRATEGIES.get(strategy)}"
    theirs = next((one for one in published.rows(name, "zh") if one.name == row), None)
    if theirs is None:
        return []
    found = []
    for scorer, kind in kinds.items():
        for key in ("rate",) if kind == "words" else ("o", "r") if kind == "voice" else ():
            wanted = theirs.wer if key == "rate" else getattr(theirs, key)
            one = run["scores"][scorer].get(key)
            if wanted is None or not one:
                continue
            scale = 100 if key == "rate" else 1
            low, high = scale * one["low"], scale * one["high"]
            slack = TOLERANCE[name][key != "rate"]
            found.append(
                {
                    "set": name,
                    "row": row,
                    "measure": "word error, %" if key == "rate" else f"SIM-{key}",
                    "scorer": scorer,
                    "ours": scale * one["value"],
                    "interval": [low, high],
                    "paper": wanted,
                    "tolerance": slack,
                    "agrees": low - slack <= wanted <= high + slack,
                }
            )
    return found


def chip_hours(plan: Mapping[str, Any]) -> dict[str, Any]:
    """Least and most chip-hours of each set by the beam of a plan of `--program search`, estimated:
    decoding and forks alone, without codec, verifiers and judges."""
    if not plan.get("utterance_s"):
        return {"reason": "it does not fit, or was not compiled for a known chip"}
    each = [s * plan["chips"] / plan["utterances"] / 3600 for s in plan["utterance_s"]]
    hours = {name: [count * one for one in each] for name, count in SETS.items()}
    return {"chips": plan["chips"], "command": plan["command"], "hours": hours}


def paper_table(found: Mapping[str, Any]) -> Table:
    """A row a figure."""
    rows = []
    for one in found["figures"]:
        low, high = (number(x) for x in one["interval"])
        rows.append(
            (
                f"{one['set']}: {one['row']}",
                f"{one['measure']} ({one['scorer']})",
                f"{number(one['ours'])} ({low} to {high})",
                number(one["paper"]),
                number(one["tolerance"]),
                "met" if one["agrees"] else "missed",
            )
        )
    note = "Met: the paper's figure is in our 95 % interval, widened by the tolerance. "
    if found["missing"]:
        note += f"Sets not run: {', '.join(found['missing'])}. "
    if found["partial"]:
        parts = ", ".join(f"{name} ({count})" for name, count in found["partial"].items())
        note += f"Only the first utterances of: {parts}. "
    head = ("Row", "Measure", "Here (95 %)", "Paper", "Tolerance", "Verdict")
    return Table("Table 2 of the paper, and ours", head, rows, note.strip())


def hours_table(found: Mapping[str, Any]) -> Table:
    """Chip-hours of the search, by model."""
    rows = []
    for model, one in found["chip_hours"].items():
        if "hours" not in one:
            rows.append((model, one["reason"], "", ""))
            continue
        cells = (f"{number(a, 1)} to {number(b, 1)}" for a, b in one["hours"].values())
        rows.append((f"{model}, {one['chips']} chips", *cells))
    note = "Estimated by `llasa plan --program search`: decoding and forks of 10 s an utterance."
    return Table("Chip-hours of 16 x 16 beams", ("Model", *SETS), rows, note)
