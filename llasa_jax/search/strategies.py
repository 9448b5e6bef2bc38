"""Which take to keep: small functions over verifiers' scores and the guards' verdicts.

The takes of one text form a pool in the order they were drawn, and the first n are the pool of n:
one pool of 16 gives the choices for N = 1, 4 and 16, without a look at later takes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from llasa_jax.errors import UserError
from llasa_jax.search.take import OK, Take


@dataclass(frozen=True)
class Pool:
    """The takes of one text, in the order they were drawn.

    Attributes:
        takes: codes and log-probabilities.
        waves: float32 [samples] each.
        statuses: "ok" or the name of a failure.
        scores: by verifier, float [takes], higher is better.
        drawn: tokens drawn for all of it, where that is more or less than for its takes each: those
            of a beam share their beginnings, and others were dropped.
        rounds: of a search that went by steps, what each kept and why; JSON-able.
    """

    text: str
    takes: list[Take]
    waves: list[np.ndarray]
    statuses: list[str]
    scores: dict[str, np.ndarray]
    drawn: int | None = None
    rounds: list[dict] = field(default_factory=list)

    @property
    def tokens(self) -> int:
        """What was drawn for it: codes, END, discarded and dropped takes."""
        return sum(take.tokens for take in self.takes) if self.drawn is None else self.drawn

    def first(self, n: int) -> "Pool":
        """The pool of the first n takes."""
        scores = {name: values[:n] for name, values in self.scores.items()}
        return Pool(self.text, self.takes[:n], self.waves[:n], self.statuses[:n], scores)

    def within(self, tokens: int) -> "Pool":
        """The pool of the first takes that so many tokens pay for, of one at least."""
        spent = np.cumsum([take.tokens for take in self.takes])
        return self.first(max(1, int(np.searchsorted(spent, tokens, side="right"))))


def join(*pools: Pool) -> Pool:
    """One pool of the takes of several searches for the same text, in this order: a mixture."""
    first = pools[0]
    return Pool(
        first.text,
        [take for pool in pools for take in pool.takes],
        [wave for pool in pools for wave in pool.waves],
        [status for pool in pools for status in pool.statuses],
        {name: np.concatenate([pool.scores[name] for pool in pools]) for name in first.scores},
        sum(pool.tokens for pool in pools),
        [entry for pool in pools for entry in pool.rounds],
    )


def combined(
    scores: Mapping[str, Sequence[float]],
    weights: Mapping[str, float],
    statuses: Sequence[str] | None = None,
    *,
    standardise: bool = True,
) -> np.ndarray:
    """Weighted sum of several verifiers' scores: float64 [N], higher is better.

    Args:
        scores: by verifier, [N] each.
        weights: by verifier; those without a weight take no part.
        standardise: scores are first brought to mean 0 and deviation 1 over the pool, so that a
            weight means the same whatever a verifier's scale. A score that is equal for all counts
            0.
        statuses: takes that failed keep out of mean and deviation.

    Raises:
        UserError: if a weight names no verifier, or a score is not finite.
    """
    total = np.zeros(len(next(iter(scores.values()), statuses or ())))
    ok = np.ones(len(total), bool) if statuses is None else np.array([s == OK for s in statuses])
    for name, weight in weights.items():
        values = _finite(scores, name)
        if standardise:
            sample = values[ok] if ok.any() else values
            deviation = sample.std()
            flat = deviation <= 1e-9 * np.abs(sample).max()
            values = np.zeros(len(values)) if flat else (values - sample.mean()) / deviation
        total += weight * values
    return total


def _finite(scores: Mapping[str, Sequence[float]], name: str) -> np.ndarray:
    """One verifier's scores, float64 [N]; UserError if there are none or one is not finite."""
    if name not in scores:
        raise UserError(f"verifier {name}: gave no scores, there are: {', '.join(scores)}")
    values = np.asarray(scores[name], np.float64)
    if not np.isfinite(values).all():
        place = int(np.flatnonzero(~np.isfinite(values))[0])
        raise UserError(f"verifier {name}: its score of candidate {place} is {values[place]}")
    return values


def ranking(pool: Pool, weights: Mapping[str, float], *, standardise: bool = True) -> list[int]:
    """Places in the pool from the best take to the worst; failures rank last, ties by place."""
    totals = combined(pool.scores, weights, pool.statuses, standardise=standardise)
    failed = [status != OK for status in pool.statuses]
    return sorted(range(len(pool.takes)), key=lambda i: (failed[i], -totals[i], i))


def best_of(pool: Pool, weights: Mapping[str, float], *, standardise: bool = True) -> int:
    """Best-of-N: the place of the take to keep."""
    return ranking(pool, weights, standardise=standardise)[0]


def worth_learning(
    pool: Pool,
    weights: Mapping[str, float],
    thresholds: Mapping[str, float],
    *,
    gain: float = 0.0,
    most: int,
) -> list[int]:
    """Places of the takes that a model should learn to say first (best-of-N fine-tuning), best
    first.

    Args:
        thresholds: what each of these verifiers must give a take (`accepted`).
        gain: by how much a take's weighted scores must exceed the median of the pool's.
        most: at most so many; of equal takes one counts.

    Raises:
        UserError: as `combined`.
    """
    totals = combined(pool.scores, weights, pool.statuses, standardise=False)
    fine = accepted(pool, thresholds) & (totals >= np.median(totals) + gain)
    found: dict[bytes, int] = {}
    for place in ranking(pool, weights, standardise=False):
        if fine[place]:
            found.setdefault(np.asarray(pool.takes[place].codes, np.int32).tobytes(), place)
    return list(found.values())[:most]


def accepted(pool: Pool, thresholds: Mapping[str, float]) -> np.ndarray:
    """Which takes no guard refused and all named verifiers give at least so much: bool [takes].

    Raises:
        UserError: as `combined`.
    """
    found = np.array([status == OK for status in pool.statuses])
    for name, least in thresholds.items():
        found &= _finite(pool.scores, name) >= least
    return found


def first_accepted(pool: Pool, thresholds: Mapping[str, float]) -> int | None:
    """Sequential best-of-N: the place of the first accepted take, None where there is none."""
    found = np.flatnonzero(accepted(pool, thresholds))
    return int(found[0]) if len(found) else None


def threshold_then_rank(
    pool: Pool, thresholds: Mapping[str, float], weights: Mapping[str, float]
) -> int:
    """The best by `weights` of the accepted takes; of all, where none is accepted."""
    fine = accepted(pool, thresholds)
    order = ranking(pool, weights)
    return next((i for i in order if fine[i]), order[0])


def pareto_front(pool: Pool, names: Sequence[str]) -> list[int]:
    """Places of the takes that no other one beats: as good by all these verifiers, better by one.

    Takes that failed are only on it where all did.

    Raises:
        UserError: as `combined`.
    """
    table = np.stack([_finite(pool.scores, name) for name in names], axis=1)
    ok = [i for i, status in enumerate(pool.statuses) if status == OK]
    places = ok or list(range(len(pool.takes)))

    def beaten(i: int) -> bool:
        others = table[places]
        return bool(((others >= table[i]).all(1) & (others > table[i]).any(1)).any())

    return [i for i in places if not beaten(i)]


def pareto_best(pool: Pool, weights: Mapping[str, float]) -> int:
    """The take of the front whose worst rank by any of the verifiers is best.

    Weights only break ties; a rank does not know by how much a verifier prefers a take.
    """
    front = pareto_front(pool, list(weights))
    ranks = [
        {i: place for place, i in enumerate(sorted(front, key=lambda i: -pool.scores[name][i]))}
        for name in weights
    ]
    order = ranking(pool, weights)
    return min(front, key=lambda i: (max(rank[i] for rank in ranks), order.index(i)))
