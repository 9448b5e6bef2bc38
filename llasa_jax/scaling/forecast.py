"""What a table of runs says: fits by kind of loss with intervals, and forecasts of larger runs.

A forecast is made once, before the run that it forecasts, and never made again: the same command,
given a table that holds that run, adds what was observed.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from llasa_jax.console import bar
from llasa_jax.errors import UserError
from llasa_jax.parallel.flops import parameter_count
from llasa_jax.scaling.fit import (
    LEAST_RUNS,
    PowerLaw,
    Runs,
    fit_law,
    fit_power,
    parabolas,
    resampled,
)
from llasa_jax.scaling.ladder import Trial

LOSSES = {
    "loss": "all learned tokens",
    "speech_nats": "speech, the text given",
    "text_nats": "text, the speech given",
}
LEVEL = 0.95


def ladder_rows(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The rows that could be fitted: not held out, and of all the data."""
    return [row for row in rows if not row.get("held_out") and row.get("data", 1.0) == 1.0]


def fitted_rows(
    rows: Sequence[Mapping[str, Any]], fitted_from: float = 0.0
) -> list[Mapping[str, Any]]:
    """The rows that a law is fitted to: those of `ladder_rows` whose budget is large enough."""
    some = ladder_rows(rows)
    return [row for row, of in zip(some, budgets_of(some), strict=True) if of >= fitted_from]


def as_runs(rows: Sequence[Mapping[str, Any]], loss: str) -> Runs:
    return Runs(*([row[name] for row in rows] for name in ("n", "d", "flops", loss)))


def budgets_of(rows: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """Of each run; where the table does not say, its FLOPs to one digit."""
    return np.array([row.get("budget") or float(f"{row['flops']:.0e}") for row in rows])


def analyse(
    rows: Sequence[Mapping[str, Any]],
    trials: Sequence[Trial] = (),
    *,
    fitted_from: float = 0.0,
    resamples: int = 500,
    seed: int = 0,
) -> dict[str, Any]:
    """Everything that is fitted to a table of runs.

    Args:
        rows: as `table.read_rows` gives them.
        trials: runs to forecast.
        fitted_from: the smallest budget that is fitted.

    Returns:
        JSON-able: `losses`, for each kind of loss that all fitted runs have its law, exponents,
        optima, parabolas, power law, `backtest` (the largest budget forecast by the others) and
        `forecasts` by the trial's name; `seeds` and `data` as far as the table has them.

    Raises:
        UserError: there is nothing to fit.
    """
    chosen = fitted_rows(rows, fitted_from)
    kinds = [name for name in LOSSES if chosen and all(name in row for row in chosen)]
    if not kinds:
        raise UserError(f"fit: no runs with one of {', '.join(LOSSES)}")
    found: dict[str, Any] = {"runs": len(chosen), "fitted_from": fitted_from}
    found |= {"resamples": resamples, "seed": seed}
    found["losses"] = {}
    with bar("fit", len(kinds), "kinds of loss") as progress:
        for kind in kinds:
            found["losses"][kind] = _analysed(chosen, kind, trials, resamples, seed)
            progress.advance()
    return found | {"seeds": _seeds(ladder_rows(rows), kinds), "data": _data(rows, kinds)}


def _analysed(
    rows: Sequence[Mapping[str, Any]],
    kind: str,
    trials: Sequence[Trial],
    resamples: int,
    seed: int,
) -> dict[str, Any]:
    runs, budgets = as_runs(rows, kind), budgets_of(rows)
    law = fit_law(runs)
    laws = resampled(runs, resamples, seed, law)
    errors = np.log(runs.loss) - np.log(law(runs.n, runs.d))
    rng = np.random.default_rng(seed)
    noise = np.exp(rng.choice(errors, len(laws)))

    def interval(of: Any) -> list[float]:
        return _bounds([of(one) for one in laws])

    named = {name: interval(lambda one, name=name: getattr(one, name)) for name in asdict(law)}
    bottoms = parabolas(runs, budgets)
    inside = [one for one in bottoms if one.inside]
    baseline = power_of_best(runs, budgets)
    optima = []
    for budget in [*np.unique(budgets), 10 * budgets.max()]:
        n, d = law.optimum(budget, runs.per)
        optima.append(
            {
                "flops": float(budget),
                "n": n,
                "n_interval": interval(lambda one, c=budget: one.optimum(c, runs.per)[0]),
                "d": d,
                "d_interval": interval(lambda one, c=budget: one.optimum(c, runs.per)[1]),
                "loss": float(law(n, d)),
            }
        )
    found = {
        "law": asdict(law),
        "intervals": named,
        "residual": float(np.sqrt(np.mean(errors**2))),
        "n_exponent": law.exponent,
        "n_exponent_interval": interval(lambda one: one.exponent),
        "d_exponent": 1 - law.exponent,
        "d_exponent_interval": interval(lambda one: 1 - one.exponent),
        "flops_a_token_and_parameter": runs.per,
        "optima": optima,
        "parabolas": [asdict(one) for one in bottoms],
        "power_law": asdict(baseline),
        "backtest": _backtest(runs, budgets),
        "forecasts": {},
    }
    if len(inside) > 1:
        x = np.array([one.budget for one in inside])
        found["parabola_n_exponent"] = fit_power(x, np.array([p.n for p in inside])).exponent
        found["parabola_d_exponent"] = fit_power(x, np.array([p.d for p in inside])).exponent
    for trial in trials:
        n, d = parameter_count(trial.run.lm), trial.tokens
        values = np.array([one(n, d) for one in laws])
        found["forecasts"][trial.name] = {
            "value": float(law(n, d)),
            "interval": _bounds(values * noise),
            "power_law": float(baseline(trial.flops)),
        }
    return found


def _bounds(values: Any) -> list[float]:
    rest = (1 - LEVEL) / 2
    return [float(x) for x in np.quantile(values, (rest, 1 - rest))]


def power_of_best(runs: Runs, budgets: np.ndarray) -> PowerLaw:
    """A power law through the best run of each budget: what a forecast must beat."""
    each = [runs.take(budgets == budget) for budget in np.unique(budgets)]
    best = [(some.flops[i], some.loss[i]) for some in each for i in [int(some.loss.argmin())]]
    return fit_power(*np.array(best).T)


def _backtest(runs: Runs, budgets: np.ndarray) -> dict[str, Any] | None:
    """The runs of the largest budget, forecast by those of the others; None: too few are left."""
    last = budgets == budgets.max()
    before = runs.take(~last)
    if len(before) < LEAST_RUNS or len(np.unique(budgets)) < 3:
        return None
    law, power = fit_law(before), power_of_best(before, budgets[~last])
    largest = runs.take(last)
    best = int(largest.loss.argmin())
    return {
        "budget": float(budgets.max()),
        "runs": len(largest),
        "relative_errors": [float(x) for x in law(largest.n, largest.d) / largest.loss - 1],
        "best_relative_error": float(law(largest.n, largest.d)[best] / largest.loss[best] - 1),
        "power_law_relative_error": float(power(largest.flops[best]) / largest.loss[best] - 1),
    }


def _seeds(rows: Sequence[Mapping[str, Any]], kinds: Sequence[str]) -> list[dict[str, Any]]:
    """Points of the ladder with several seeds: the mean and deviation of each kind of loss."""
    points: dict[tuple, list[Mapping[str, Any]]] = {}
    for row in rows:
        if "seed" in row:
            points.setdefault((row.get("budget"), row["n"]), []).append(row)
    found = []
    for (budget, n), some in points.items():
        if len(some) > 1:
            losses = {kind: [row[kind] for row in some] for kind in kinds}
            found.append(
                {"budget": budget, "n": n, "seeds": len(some)}
                | {kind: float(np.mean(x)) for kind, x in losses.items()}
                | {f"{kind}_deviation": float(np.std(x, ddof=1)) for kind, x in losses.items()}
            )
    return found


def _data(rows: Sequence[Mapping[str, Any]], kinds: Sequence[str]) -> list[dict[str, Any]]:
    """Runs on a part of the data, from the smallest."""
    part = [row for row in rows if row.get("data", 1.0) < 1 and not row.get("held_out")]
    names = ("name", "n", "d", "unique", "flops", *kinds)
    part.sort(key=lambda row: row["data"])
    return [{name: row[name] for name in names if name in row} for row in part]


def forecast_file(
    path: Path,
    trial: Trial,
    analysis: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    table: Path,
    code: str,
) -> dict[str, Any]:
    """The forecast of a run as its file says: made now if there is none, and what was observed
    added where the table holds it.

    Raises:
        UserError: the file is damaged.
    """
    seen = [row for row in rows if row["name"] == trial.name]
    if path.is_file():
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            forecast = found["forecast"]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}: is damaged ({error}); restore it") from error
    else:
        if seen:
            raise UserError(
                f"{path}: is not there, and {trial.name} has run; it cannot be forecast"
            )
        used = fitted_rows(rows, analysis["fitted_from"])
        forecast = {kind: one["forecasts"][trial.name] for kind, one in analysis["losses"].items()}
        found = {
            "made": datetime.now(UTC).isoformat(timespec="seconds"),
            "code": code,
            "run": {
                "name": trial.name,
                "n": parameter_count(trial.run.lm),
                "d": round(trial.tokens),
                "flops": trial.flops,
            },
            "inputs": {
                "table": table.name,
                "sha256": hashlib.sha256(table.read_bytes()).hexdigest(),
                "runs": [row["name"] for row in used],
                "largest_budget": float(budgets_of(used).max()),
                "laws": {kind: one["law"] for kind, one in analysis["losses"].items()},
                "resamples": analysis["resamples"],
                "seed": analysis["seed"],
            },
            "level": LEVEL,
            "forecast": forecast,
            "observed": None,
            "relative_error": None,
            "runs": [],
        }
    if seen:
        observed = {
            kind: float(np.mean([row[kind] for row in seen]))
            for kind in forecast
            if all(kind in row for row in seen)
        }
        found |= {
            "observed": observed,
            "relative_error": {
                kind: forecast[kind]["value"] / value - 1 for kind, value in observed.items()
            },
            "power_law_relative_error": {
                kind: forecast[kind]["power_law"] / value - 1 for kind, value in observed.items()
            },
            "runs": [
                {k: row[k] for k in ("name", "n", "d", "flops", "code") if k in row} for row in seen
            ],
        }
    return found
