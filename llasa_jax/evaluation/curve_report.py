"""What `llasa curve` found: points with their intervals, a table and a figure."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llasa_jax.evaluation.figures import search_curve
from llasa_jax.evaluation.page import json_bytes, write_files
from llasa_jax.evaluation.tables import Table, failures, number, percent, with_interval
from llasa_jax.metrics import statistics
from llasa_jax.search.guards import failure_rates
from llasa_jax.search.take import OK

LABEL = ("strategy", "n", "beams", "step_tokens", "prefix_seconds", "matched_to")


def describe_curve(rows: Sequence[Mapping[str, Any]], seconds: Mapping[int, float]) -> dict:
    """Points of the curve, and their paired differences.

    Args:
        rows: of each sentence its `points` (what was kept: `LABEL`, "status", "scores", "tokens",
            "takes", "flops", "sound", "errors", "words", "similarity", "judge") and the `statuses`
            of all takes.
        seconds: a sentence, by N, of the points that are not matched to another.

    Returns:
        `points`, each with word error and similarity of what was kept and their 95 % intervals over
        sentences, failures with the rate that they are under, and means a sentence of tokens,
        seconds, decoder FLOPs and `sound`, the seconds of what was kept; `differences` in word
        error between two points on the same sentences; `sentences`; `all_takes`: failures before
        the choice.
    """
    by_point = [[row["points"][i] for row in rows] for i in range(len(rows[0]["points"]))]
    points = [_point(kept, seconds) for kept in by_point]
    pairs = [(i, i + 1) for i in range(len(points) - 1)]
    if len(points) > 2:
        pairs.append((0, len(points) - 1))
    return {
        "points": points,
        "differences": [_difference(by_point[a], by_point[b]) for a, b in pairs],
        "sentences": len(rows),
        "all_takes": failure_rates([status for row in rows for status in row["statuses"]]),
    }


def _point(kept: Sequence[Mapping[str, Any]], seconds: Mapping[int, float]) -> dict:
    first = kept[0]
    errors, words = _counts(kept)
    failed = sum(one["status"] != OK for one in kept)
    near = [one["similarity"] for one in kept]
    near = statistics.mean(near) if None not in near else None
    wer = statistics.rate(errors, words)
    point = {name: first[name] for name in LABEL} | {
        "judge": first["judge"],
        "judge_wer": wer.value,
        "judge_wer_interval": [wer.low, wer.high],
        "similarity": None if near is None else near.value,
        "similarity_interval": None if near is None else [near.low, near.high],
        "failures": failed,
        "failures_under": statistics.upper_bound(failed, len(kept)),
        "scores": {
            name: _mean(kept, lambda k, name=name: k["scores"][name]) for name in first["scores"]
        },
    }
    for name in ("tokens", "takes", "flops", "sound"):
        point[name] = _mean(kept, lambda one, name=name: one[name])
    point["seconds"] = None if first["matched_to"] else seconds[first["n"]]
    return point


def _mean(kept: Sequence[Mapping[str, Any]], of: Any) -> float:
    return float(np.mean([of(one) for one in kept]))


def _counts(kept: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """Errors and words of each sentence: two [sentences]."""
    return np.array([(one["errors"], one["words"]) for one in kept]).T


def _difference(one: Sequence[Mapping[str, Any]], other: Sequence[Mapping[str, Any]]) -> dict:
    """Word error of one point less that of the other, over the same sentences."""
    found = statistics.rate_difference(*_counts(one), *_counts(other))
    name = lambda kept: {key: kept[0][key] for key in LABEL if kept[0][key] is not None}  # noqa: E731
    return {"of": name(one), "less": name(other), "wer": found.to_json()}


def curve_table(found: Mapping[str, Any]) -> Table:
    """The points, to read."""
    head = ("Search", "Word error (95 %)", "Similarity (95 %)", "Failures", "Tokens", "Seconds")
    rows = [
        (
            _name(point),
            with_interval(point["judge_wer"], point["judge_wer_interval"], percent),
            with_interval(point["similarity"], point["similarity_interval"]),
            failures(point["failures"], found["sentences"]),
            number(point["tokens"], 0),
            number(point["seconds"], 2),
        )
        for point in found["points"]
    ]
    note = f"{found['sentences']} sentences; chosen by {', '.join(found['verifiers'])}; judged by "
    note += f"{', '.join(found['judges'])}. Tokens and seconds are of a sentence."
    return Table(f"Search: {found['strategy']}", head, rows, note)


def _name(point: Mapping[str, Any]) -> str:
    if point["matched_to"]:
        return f"best-of, the tokens of {point['matched_to']} N = {point['n']}"
    beams = "" if point["beams"] is None else f", {point['beams']} beams"
    return f"{point['strategy']}, N = {point['n']}{beams}"


def write_curve_report(folder: Path, found: Mapping[str, Any]) -> None:
    """Writes `curve.json` and `curve.png` into `folder`."""
    own = [point for point in found["points"] if not point["matched_to"]]
    figure = search_curve({"judges": found["judges"], "points": own})
    write_files(folder, {"curve.json": json_bytes(found), "curve.png": figure})
