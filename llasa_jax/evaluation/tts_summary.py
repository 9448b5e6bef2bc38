"""What rows of utterances come to: means with intervals, failures, and paired comparisons.

A row is what `llasa eval tts` keeps of an utterance, JSON-able: "id", "category", "status", and
"scores", by scorer: of words {"heard", "errors": [substitutions, deletions, insertions, words],
"rate"}, of voices and emotions the cosines with the prompt, {"o": itself, "r": as the codec gives
it back}, of quality {"value"}.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from llasa_jax.errors import UserError
from llasa_jax.evaluation.scorers import KINDS, OF_LETTERS
from llasa_jax.metrics import seed_tts, statistics
from llasa_jax.metrics.text import character_errors
from llasa_jax.search.take import OK

Row = Mapping[str, Any]
ALL_WRONG = 1.0  # the rate of an utterance that was not spoken: all its words are missing
ALPHA = 0.05
BETTER = {"rate": "lower", "letters": "lower", "o": "higher", "r": "higher", "value": "higher"}


def describe(rows: Sequence[Row], scorers: Sequence[str]) -> dict[str, Any]:
    """A run's figures, JSON-able.

    Returns:
        `utterances`, `without_sound` and their names, `failures` by name with the rate that they
        are under; by scorer what `KINDS` says of it; word error by category where there are some.
    """
    silent = [row["id"] for row in rows if not row["sound"]]
    counted = Counter(row["status"] for row in rows if row["status"] != OK)
    failed = sum(counted.values())
    found: dict[str, Any] = {
        "utterances": len(rows),
        "without_sound": len(silent),
        "without_sound_ids": silent,
        "why": sorted({row["why"] for row in rows if row.get("why")}),
        "failures": {
            "of": len(rows),
            "any": failed,
            "under": statistics.upper_bound(failed, len(rows)),
        }
        | dict(sorted(counted.items())),
        "scores": {},
    }
    for name in scorers:
        words = KINDS[name] == "words"
        found["scores"][name] = _words(rows, name) if words else _numbers(rows, name)
    return found


def _words(rows: Sequence[Row], name: str) -> dict[str, Any]:
    """`rate`: the mean of utterances' rates, those without sound counted as all wrong; `original`:
    as seed-tts-eval prints it, which leaves them out; `corpus`: errors over words; `letters`: of
    those who know no words, the mean of utterances' character error rates."""
    rates = [_rate(row, name) for row in rows]
    heard = [row["scores"][name] for row in rows if row["sound"]]
    counts = np.array([one["errors"] for one in heard], np.float64).reshape(-1, 4)
    total = counts[:, 3].sum()
    kinds = ("substitutions", "deletions", "insertions")
    found = {
        "rate": statistics.mean(rates).to_json(),
        "original": seed_tts.average([one["rate"] for one in heard]) if heard else None,
        "original_utterances": len(heard),
        "over_half_wrong": int(sum(one["rate"] > 0.5 for one in heard)),
        "corpus": float(counts[:, :3].sum() / total) if total else None,
        **{kind: float(counts[:, i].sum() / total) for i, kind in enumerate(kinds) if total},
    }
    if "letters" in keys_of(name):
        found["letters"] = statistics.mean([_letters(row, name) for row in rows]).to_json()
    names = sorted({row["category"] for row in rows if row["category"]})
    if len(names) > 1:
        found["categories"] = {
            category: statistics.mean(
                [_rate(row, name) for row in rows if row["category"] == category]
            ).to_json()
            for category in names
        }
    return found


def _numbers(rows: Sequence[Row], name: str) -> dict[str, Any]:
    """Each of a scorer's numbers: its mean over the utterances that have it."""
    found = {}
    for key in keys_of(name):
        values = [x for row in rows if (x := row["scores"].get(name, {}).get(key)) is not None]
        if values:
            found[key] = statistics.mean(values).to_json()
    return found


def _rate(row: Row, name: str) -> float:
    return row["scores"][name]["rate"] if row["sound"] else ALL_WRONG


def _letters(row: Row, name: str) -> float:
    if not row["sound"]:
        return ALL_WRONG
    return character_errors([row["text"]], [row["scores"][name]["heard"]]).rate


def compare(
    one: Sequence[Row], other: Sequence[Row], scorers: Sequence[str], names: tuple[str, str]
) -> dict[str, Any]:
    """The second run beside the first, paired by utterance.

    Returns:
        JSON-able: `of`, `against`, `utterances` compared, `only_in` (how many one alone has), and
        by scorer and number: the `difference` second less first with its interval, `p` of the
        permutation test, and a `verdict`.

    Raises:
        UserError: an utterance has another text in each, or they have none in common.
    """
    mine, theirs = ({row["id"]: row for row in rows} for rows in (one, other))
    both = [name for name in mine if name in theirs]
    if not both:
        raise UserError(f"compare: {names[0]} and {names[1]} have no utterance in common")
    for name in both:
        if mine[name]["text"] != theirs[name]["text"]:
            raise UserError(f"compare: utterance {name} has another text in each run; not paired")
    found: dict[str, Any] = {
        "of": names[1],
        "against": names[0],
        "utterances": len(both),
        "only_in": {names[0]: len(mine) - len(both), names[1]: len(theirs) - len(both)},
        "scores": {},
    }
    for scorer in scorers:
        for key in keys_of(scorer):
            pairs = [(_value(mine[i], scorer, key), _value(theirs[i], scorer, key)) for i in both]
            pairs = [pair for pair in pairs if None not in pair]
            if pairs:
                label = f"{scorer} {key}"
                found["scores"][label] = _paired(*np.array(pairs).T, BETTER[key])
    return found


def keys_of(scorer: str) -> tuple[str, ...]:
    """Names of the numbers that a scorer gives."""
    if KINDS[scorer] == "words":
        return ("rate", "letters") if scorer in OF_LETTERS else ("rate",)
    return ("o", "r") if KINDS[scorer] in ("voice", "emotion") else ("value",)


def _value(row: Row, scorer: str, key: str) -> float | None:
    if key in ("rate", "letters"):
        return {"rate": _rate, "letters": _letters}[key](row, scorer)
    return row["scores"].get(scorer, {}).get(key)


def _paired(first: np.ndarray, second: np.ndarray, better: str) -> dict[str, Any]:
    difference = second - first
    p = statistics.sign_flip(difference)
    gain = difference.mean() * (1 if better == "higher" else -1)
    verdict = "no significant difference" if p >= ALPHA else "better" if gain > 0 else "worse"
    return {"difference": statistics.mean(difference).to_json(), "p": p, "verdict": verdict}


def worst(rows: Sequence[Row], scorers: Sequence[str], count: int) -> list[Row]:
    """The utterances to listen to first: those that failed, then by their word errors (of the first
    scorer of words, else by the first other one's number), then by id."""
    words = next((name for name in scorers if KINDS[name] == "words"), None)
    order: Callable[[Row], Any]
    if words is not None:
        order = lambda row: (row["sound"] and row["status"] == OK, -_rate(row, words), row["id"])  # noqa: E731
    else:
        name = next(iter(scorers), "")
        order = lambda row: (  # noqa: E731
            row["sound"] and row["status"] == OK,
            next(iter(row["scores"].get(name, {}).values()), None) or 0.0,
            row["id"],
        )
    return sorted(rows, key=order)[:count]
