"""How sure a measured number is: bootstrap intervals over utterances, bounds for rare failures.

A corpus rate is a ratio of sums (errors over words), so the utterance, never the word, is what is
resampled: words of one sentence fail together. Intervals are percentile intervals (Efron and
Tibshirani 1993, chapter 13).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import binomtest

LEVEL = 0.95
RESAMPLES = 2000
FLIPS = 10_000  # of a permutation test
_BLOCK = 1 << 22  # resampled utterances held at a time


@dataclass(frozen=True)
class Interval:
    """A value and the interval that holds it with probability `level`, from `n` utterances."""

    value: float
    low: float
    high: float
    n: int
    level: float = LEVEL

    def to_json(self) -> dict[str, float | int | None]:
        """JSON form; what is not finite (a quotient by zero) becomes null."""
        numbers = {"value": self.value, "low": self.low, "high": self.high}
        finite = {name: x if math.isfinite(x) else None for name, x in numbers.items()}
        return finite | {"n": self.n, "level": self.level}


def bootstrap(
    statistic: Callable[..., np.ndarray],
    *columns: Sequence[float] | np.ndarray,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> Interval:
    """Percentile interval of a statistic of column sums; utterances are drawn with replacement.

    Args:
        statistic: takes the columns' sums, arrays [...] each, gives [...].
        columns: numbers of each utterance, [utterances] each; one draw takes an utterance's numbers
            from all of them, which makes comparisons paired.

    Raises:
        ValueError: if there are no utterances, or the columns differ in length.
    """
    table = np.stack([np.asarray(column, np.float64) for column in columns], axis=1)
    count = len(table)
    if not count:
        raise ValueError("no utterances to resample")
    rng = np.random.default_rng(seed)
    block = max(1, _BLOCK // count)
    with np.errstate(divide="ignore", invalid="ignore"):
        value = float(statistic(*table.sum(0)))
        draws = []
        for start in range(0, resamples, block):
            size = min(block, resamples - start)
            times = rng.multinomial(count, np.full(count, 1 / count), size=size)
            draws.append(statistic(*(times @ table).T))
    drawn = np.concatenate(draws)
    drawn = drawn[~np.isnan(drawn)]  # 0 / 0: a resample without a single word says nothing
    if not len(drawn):
        return Interval(value, math.nan, math.nan, count, level)
    # "lower" and "higher" take drawn values, so that an infinite one does not spread by inf - inf.
    low = np.quantile(drawn, (1 - level) / 2, method="lower")
    high = np.quantile(drawn, (1 + level) / 2, method="higher")
    return Interval(value, float(low), float(high), count, level)


def mean(values: Sequence[float] | np.ndarray, **settings: Any) -> Interval:
    """Interval of the mean of one number an utterance."""
    return bootstrap(np.divide, values, np.ones(len(values)), **settings)


def rate(
    errors: Sequence[float] | np.ndarray, words: Sequence[float] | np.ndarray, **settings: Any
) -> Interval:
    """Interval of the corpus rate sum(errors) / sum(words)."""
    return bootstrap(np.divide, errors, words, **settings)


def rate_difference(
    errors: np.ndarray,
    words: np.ndarray,
    other_errors: np.ndarray,
    other_words: np.ndarray,
    **settings: Any,
) -> Interval:
    """Interval of rate - other rate, paired: utterance i is the same sentence in both systems."""
    columns = (errors, words, other_errors, other_words)
    return bootstrap(lambda a, b, c, d: a / b - c / d, *columns, **settings)


def rate_quotient(
    errors: np.ndarray,
    words: np.ndarray,
    other_errors: np.ndarray,
    other_words: np.ndarray,
    **settings: Any,
) -> Interval:
    """Interval of rate / other rate, paired; infinite where the other one makes no error."""
    columns = (errors, words, other_errors, other_words)
    return bootstrap(lambda a, b, c, d: (a / b) / (c / d), *columns, **settings)


def upper_bound(failures: int, trials: int, level: float = LEVEL) -> float:
    """What the failure rate is under, with confidence `level` (one-sided Clopper and Pearson 1934).

    0 of 200 is under 0.015: zero failures seen is not a rate of zero.
    """
    test = binomtest(failures, trials, alternative="less")
    return float(test.proportion_ci(level, method="exact").high)


def failure_text(failures: int, trials: int, level: float = LEVEL) -> str:
    """For tables: "0 of 200 (under 1.5 %, 95 %)"."""
    bound = 100 * upper_bound(failures, trials, level)
    return f"{failures} of {trials} (under {bound:.2g} %, {100 * level:g} %)"


def sign_flip(differences: Sequence[float] | np.ndarray, seed: int = 0) -> float:
    """Two-sided p-value of a paired mean difference: how often random signs give as large a mean.

    The permutation test of Fisher (1935), by `FLIPS` draws; exact for the smallest p-value it can
    give, 1 / (`FLIPS` + 1). One number an utterance; 1 where all differences are zero.

    Raises:
        ValueError: if there are no differences.
    """
    found = np.asarray(differences, np.float64)
    if not len(found):
        raise ValueError("no differences to test")
    rng, reached, observed = np.random.default_rng(seed), 0, abs(found.sum())
    block = max(1, _BLOCK // len(found))
    for start in range(0, FLIPS, block):
        signs = rng.integers(0, 2, (min(block, FLIPS - start), len(found))) * 2 - 1
        reached += int((np.abs(signs @ found) >= observed * (1 - 1e-9)).sum())
    return (reached + 1) / (FLIPS + 1)
