"""Which take to keep: best-of-N over verifiers' scores and the guards' verdicts.

The takes of one text form a pool in the order they were drawn, and the first n are the pool of n:
one pool of 16 gives the choices for N = 1, 4 and 16, without a look at later takes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

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
    """

    text: str
    takes: list[Take]
    waves: list[np.ndarray]
    statuses: list[str]
    scores: dict[str, np.ndarray]

    def first(self, n: int) -> "Pool":
        """The pool of the first n takes."""
        scores = {name: values[:n] for name, values in self.scores.items()}
        return Pool(self.text, self.takes[:n], self.waves[:n], self.statuses[:n], scores)


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
        if name not in scores:
            raise UserError(f"verifier {name}: gave no scores, there are: {', '.join(scores)}")
        values = np.asarray(scores[name], np.float64)
        if not np.isfinite(values).all():
            place = int(np.flatnonzero(~np.isfinite(values))[0])
            raise UserError(f"verifier {name}: its score of candidate {place} is {values[place]}")
        if standardise:
            sample = values[ok] if ok.any() else values
            deviation = sample.std()
            flat = deviation <= 1e-9 * np.abs(sample).max()
            values = np.zeros(len(values)) if flat else (values - sample.mean()) / deviation
        total += weight * values
    return total


def ranking(pool: Pool, weights: Mapping[str, float], *, standardise: bool = True) -> list[int]:
    """Places in the pool from the best take to the worst; failures rank last, ties by place."""
    totals = combined(pool.scores, weights, pool.statuses, standardise=standardise)
    failed = [status != OK for status in pool.statuses]
    return sorted(range(len(pool.takes)), key=lambda i: (failed[i], -totals[i], i))


def best_of(pool: Pool, weights: Mapping[str, float], *, standardise: bool = True) -> int:
    """Best-of-N: the place of the take to keep."""
    return ranking(pool, weights, standardise=standardise)[0]
