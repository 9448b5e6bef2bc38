"""The inference-time law: word error against the FLOPs of a search, for models of several sizes.

A search of N candidates with a model costs FLOPs a second of speech; both more parameters and more
candidates cost more. At each cost one mix is best: which, is read off the measured curves, each
interpolated between its points in the log of the cost, never beyond them.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llasa_jax.errors import UserError

COSTS = 9  # looked at, evenly in their log


def read_search(path: Path) -> dict[str, Any]:
    """What `llasa curve` left of best-of-N: the model's parameters, and points by N.

    Returns:
        {"parameters", "sentences", "judge", "data", "points": [{"n", "flops_s" (FLOPs a second of
        speech), "wer", "wer_interval"}, ...]}.

    Raises:
        UserError: it is no such file, of another strategy, or of a version that did not say.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["strategy"] != "best-of":
            raise UserError(f"{path}: is of {found['strategy']}; the law is of best-of-N")
        points = [
            {
                "n": int(point["n"]),
                "flops_s": float(point["flops"]) / float(point["sound"]),
                "wer": float(point["judge_wer"]),
                "wer_interval": [float(x) for x in point["judge_wer_interval"]],
            }
            for point in found["points"]
        ]
        about = {"parameters": int(found["parameters"]), "sentences": int(found["sentences"])}
        judge = str(found["judges"][0])
    except (OSError, ValueError, KeyError, TypeError, IndexError, ZeroDivisionError) as error:
        raise UserError(
            f"{path}: no curve that says parameters and seconds ({error!r}); make it with "
            "`llasa curve`"
        ) from error
    points.sort(key=lambda point: point["n"])
    return about | {"judge": judge, "points": points}


def search_law(curves: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What mix of parameters and candidates is best at which cost.

    Args:
        curves: as `read_search` gives them, of models that differ in size.

    Returns:
        JSON-able: `curves` from the smallest model, each with the `slope` of word error in the
        log of the cost (its change when the cost doubles), and `mixes`, for each cost what each
        model's error is there (None where it was not measured) and which is `best`.

    Raises:
        UserError: there is no curve, two are of one size, or they had different judges.
    """
    if not curves:
        raise UserError("fit: no search curve")
    curves = sorted(curves, key=lambda one: one["parameters"])
    sizes = [one["parameters"] for one in curves]
    if len(set(sizes)) < len(sizes) or len({one["judge"] for one in curves}) > 1:
        raise UserError("fit --curve: give curves of different sizes and one judge")
    described = []
    for one in curves:
        x, y = (np.array([p[k] for p in one["points"]]) for k in ("flops_s", "wer"))
        slope = float(np.polyfit(np.log2(x), y, 1)[0]) if len(x) > 1 else None
        described.append({**one, "slope": slope})
    every = [p["flops_s"] for one in curves for p in one["points"]]
    mixes = []
    for cost in np.geomspace(min(every), max(every), COSTS):
        errors = [_at(one["points"], cost) for one in curves]
        known = [(found[0], place) for place, found in enumerate(errors) if found is not None]
        if not known:
            continue
        wer, place = min(known)
        mixes.append(
            {
                "flops_s": float(cost),
                "wers": [None if found is None else found[0] for found in errors],
                "best": sizes[place],
                "candidates": errors[place][1],
                "wer": wer,
            }
        )
    return {"curves": described, "mixes": mixes}


def _at(points: Sequence[Mapping[str, Any]], cost: float) -> tuple[float, float] | None:
    """Word error and candidates at a cost, between the measured points; None beyond them."""
    x = np.log([point["flops_s"] for point in points])
    place = np.log(cost)
    if not x[0] - 1e-9 <= place <= x[-1] + 1e-9:
        return None
    wer = np.interp(place, x, [point["wer"] for point in points])
    candidates = np.exp(np.interp(place, x, np.log([point["n"] for point in points])))
    return float(wer), float(candidates)
