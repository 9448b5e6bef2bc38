"""Fits of loss against parameters N and tokens D, with intervals.

The law is L(N, D) = E + A / N^alpha + B / D^beta (Hoffmann et al. 2022, approach 3), fitted by the
Huber loss of log L. Given the exponents it is linear in E, A and B (variable projection, Golub and
Pereyra 1973), so all pairs of exponents are tried, and the bottom of each valley is fitted: one
start finds what it stood next to. Beside it stand the parabolas of each budget (approach 2) and, as
what a forecast must beat, a power law of compute without offset.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from scipy.optimize import least_squares, nnls

from llasa_jax.errors import UserError

DELTA = 1e-3  # Huber's, of log L, as in Hoffmann et al.
STARTS = np.geomspace(0.03, 3.0, 16)  # of each exponent; all pairs are tried
EXPONENTS = (0.01, 4.0)  # within which they are searched for
POLISHED = 5  # pairs better than all their neighbours, the best: fitted, all five numbers at once
NEAR = (0.8, 1.0, 1.25)  # where a resample's exponents begin, as shares of the whole's
LEAST_RUNS = 6  # five numbers need one run more
TINY = 1e-9  # of the loss: a term that is nothing


@dataclass(frozen=True)
class Law:
    """L(N, D) = e + a / N^alpha + b / D^beta, in nats."""

    e: float
    a: float
    b: float
    alpha: float
    beta: float

    def __call__(self, n: Any, d: Any) -> Any:
        return self.e + self.a * np.power(n, -self.alpha) + self.b * np.power(d, -self.beta)

    @property
    def exponent(self) -> float:
        """Of the budget in the best N; that of the best D is 1 less this."""
        return self.beta / (self.alpha + self.beta)

    def optimum(self, flops: float, per: float = 6.0) -> tuple[float, float]:
        """The N and D on which `flops` = `per` N D are spent best (Hoffmann et al., equation 4)."""
        ratio = self.alpha * self.a / (self.beta * self.b)
        n = ratio ** (1 / (self.alpha + self.beta)) * (flops / per) ** self.exponent
        return n, flops / per / n


@dataclass(frozen=True)
class Runs:
    """What is fitted: float64 [R] each, of R runs."""

    n: np.ndarray
    d: np.ndarray
    flops: np.ndarray
    loss: np.ndarray

    def __post_init__(self):
        for one in fields(self):
            object.__setattr__(self, one.name, np.asarray(getattr(self, one.name), np.float64))

    def __len__(self) -> int:
        return len(self.loss)

    def take(self, which: np.ndarray) -> "Runs":
        """Some of them, by index or mask."""
        return Runs(*(getattr(self, one.name)[which] for one in fields(self)))

    @property
    def per(self) -> float:
        """FLOPs of a token and parameter: 6, but for attention and the table's look-up."""
        return float(np.median(self.flops / (self.n * self.d)))


def fit_law(runs: Runs, starts: Sequence[tuple[float, float]] | None = None) -> Law:
    """The law that fits the runs best.

    Args:
        starts: exponents (alpha, beta) to begin with; None: the best of all pairs of `STARTS`.

    Raises:
        UserError: there are too few runs, or all have one N or one D.
    """
    _ensure_enough(runs)
    centre = np.exp(np.log(runs.n).mean()), np.exp(np.log(runs.d).mean())
    x, y, target = np.log(runs.n / centre[0]), np.log(runs.d / centre[1]), np.log(runs.loss)
    low, high = [-40.0] * 3 + [EXPONENTS[0]] * 2, [40.0] * 3 + [EXPONENTS[1]] * 2
    best = None
    for pair in starts or _valleys(x, y, runs.loss):
        parts, _ = _projected(pair, x, y, runs.loss)
        begin = [*np.log(np.maximum(parts, TINY * runs.loss.min())), *pair]
        found = least_squares(
            lambda z: _log_loss(z, x, y)[0] - target,
            np.clip(begin, low, high),
            jac=lambda z: _log_loss(z, x, y)[1],
            bounds=(low, high),
            loss="huber",
            f_scale=DELTA,
            x_scale="jac",
        )
        if best is None or found.cost < best.cost:
            best = found
    e, a, b, alpha, beta = best.x
    law = np.exp(e), np.exp(a) * centre[0] ** alpha, np.exp(b) * centre[1] ** beta, alpha, beta
    return Law(*map(float, law))


def _valleys(x: np.ndarray, y: np.ndarray, loss: np.ndarray) -> list[tuple[float, float]]:
    """Pairs of `STARTS` that fit better than their neighbours do, the best first."""
    costs = np.full((len(STARTS) + 2,) * 2, np.inf)
    for i, alpha in enumerate(STARTS):
        for j, beta in enumerate(STARTS):
            errors = np.abs(_projected((alpha, beta), x, y, loss)[1])
            huber = np.where(errors < DELTA, errors**2 / 2, DELTA * (errors - DELTA / 2))
            costs[i + 1, j + 1] = huber.sum()
    around = sliding_window_view(costs, (3, 3)).min((2, 3))
    inner = costs[1:-1, 1:-1]
    places = np.argwhere(inner <= around)
    places = places[np.argsort(inner[tuple(places.T)])][:POLISHED]
    return [(float(STARTS[i]), float(STARTS[j])) for i, j in places]


def _ensure_enough(runs: Runs) -> None:
    if len(runs) < LEAST_RUNS:
        raise UserError(f"fit: {len(runs)} runs, the law needs {LEAST_RUNS} at least")
    for name in ("n", "d"):
        if np.ptp(np.log(getattr(runs, name))) < 0.1:
            raise UserError(f"fit: all runs have the same {name}; the law needs several")


def _projected(
    pair: Sequence[float], x: np.ndarray, y: np.ndarray, loss: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """E, A and B [3] that fit best with these exponents, none negative, and relative errors [R].

    Weighted against the loss, an error is that of log L but for its square; where errors are large
    against `DELTA` the runs count less, as Huber's loss has it.
    """
    table = np.stack([np.ones_like(x), np.exp(-pair[0] * x), np.exp(-pair[1] * y)], 1)
    table /= loss[:, None]
    weights = np.ones_like(loss)
    for _ in range(3):
        parts, _ = nnls(table * weights[:, None], weights)
        errors = table @ parts - 1
        weights = np.sqrt(np.minimum(1, DELTA / np.maximum(np.abs(errors), TINY)))
    return parts, errors


def _log_loss(z: np.ndarray, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """log L [R] and its slopes [R, 5] in (log E, log A, log B, alpha, beta)."""
    terms = np.stack([np.full_like(x, z[0]), z[1] - z[3] * x, z[2] - z[4] * y], axis=1)
    total = np.logaddexp.reduce(terms, axis=1)
    shares = np.exp(terms - total[:, None])
    slopes = [*shares.T, -x * shares[:, 1], -y * shares[:, 2]]
    return total, np.stack(slopes, axis=1)


def resampled(runs: Runs, count: int, seed: int, law: Law) -> list[Law]:
    """Laws of `count` resamples of the runs, drawn with replacement.

    Runs are drawn so that every resample can be fitted: one that has too few different ones is
    drawn again. Each begins where `law` ends, and at its neighbours.
    """
    rng = np.random.default_rng(seed)
    near = [(law.alpha * share, law.beta / share) for share in NEAR]
    found: list[Law] = []
    while len(found) < count:
        drawn = runs.take(rng.integers(0, len(runs), len(runs)))
        if len(np.unique(drawn.n)) > 2 and len(np.unique(drawn.d)) > LEAST_RUNS - 1:
            found.append(fit_law(drawn, near))
    return found


@dataclass(frozen=True)
class PowerLaw:
    """y = scale x^exponent."""

    scale: float
    exponent: float

    def __call__(self, x: Any) -> Any:
        return self.scale * np.power(x, self.exponent)


def fit_power(x: np.ndarray, y: np.ndarray) -> PowerLaw:
    """Least squares of the logs; two points at least.

    Raises:
        UserError: there are fewer, or all x are one.
    """
    if len(x) < 2 or np.ptp(np.log(x)) < 1e-9:
        raise UserError("fit: a power law needs two different budgets")
    slope, at_one = np.polyfit(np.log(x), np.log(y), 1)
    return PowerLaw(float(np.exp(at_one)), float(slope))


@dataclass(frozen=True)
class Parabola:
    """The best of a budget: loss as a parabola in log N, and where its bottom is.

    `inside`: between the smallest and the largest model, so that it is seen and not guessed.
    """

    budget: float
    n: float
    d: float
    loss: float
    inside: bool
    curve: tuple[float, float, float]

    def __call__(self, n: Any) -> Any:
        return np.polyval(self.curve, np.log(n))


def parabolas(runs: Runs, budgets: np.ndarray) -> list[Parabola]:
    """One for each budget [R] with three sizes at least that bends upwards."""
    found = []
    for budget in np.unique(budgets):
        some = runs.take(budgets == budget)
        x = np.log(some.n)
        if len(np.unique(some.n)) < 3:
            continue
        curve = np.polyfit(x, some.loss, 2)
        if curve[0] <= 0:
            continue
        place = -curve[1] / (2 * curve[0])
        n = float(np.exp(place))
        d = budget / some.per / n
        inside = bool(x.min() < place < x.max())
        loss = float(np.polyval(curve, place))
        found.append(Parabola(float(budget), n, d, loss, inside, tuple(map(float, curve))))
    return found
