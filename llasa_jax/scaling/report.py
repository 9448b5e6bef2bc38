"""Tables of a ladder: what is planned, what was run, and what is fitted to it; and their files."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llasa_jax.config import SweepPlan
from llasa_jax.evaluation.page import json_bytes, write_files
from llasa_jax.evaluation.tables import Table, interval, number, percent, with_interval
from llasa_jax.scaling.figures import compute_figure, isoflop_figure, search_figure
from llasa_jax.scaling.forecast import LOSSES, analyse, forecast_file
from llasa_jax.scaling.ladder import ladder
from llasa_jax.scaling.search_law import read_search, search_law
from llasa_jax.scaling.table import code_version, read_rows


def planned_table(runs: Sequence[Mapping[str, Any]], price: float) -> Table:
    """What `llasa sweep --dry-run` shows: a row a run, and the sum of those still to be run."""
    head = ("Run", "FLOPs", "Steps x rows", "Rate", "Chip-hours", "")
    rows = []
    for run in runs:
        state = "finished" if run["finished"] else "held out" if run["held_out"] else ""
        rows.append(
            [
                run["name"],
                f"{run['flops']:.2e}",
                f"{run['steps']:,} x {run['rows']}",
                f"{run['rate']:.2g}",
                f"{run['chip_hours']:.3g}",
                state,
            ]
        )
    left = [run for run in runs if not run["finished"]]
    usual, later = ([run for run in left if run["held_out"] == held] for held in (False, True))
    said = [_sum(usual, "to run", price)] + ([_sum(later, "held out", price)] if later else [])
    measured = sum(run["rate_of"] != "the plan" for run in left)
    said.append(
        f"Hours are estimated, {measured} by finished runs of the width, others by the plan."
    )
    return Table("Runs of the plan", head, rows, " ".join(said))


def _sum(runs: Sequence[Mapping[str, Any]], what: str, price: float) -> str:
    flops, hours = (sum(run[name] for run in runs) for name in ("flops", "chip_hours"))
    cost = f", cost {hours * price:,.2f}" if price else ""
    return f"{len(runs)} {what}: {flops:.2e} FLOPs, {hours:.3g} chip-hours{cost}."


def runs_table(runs: Sequence[Mapping[str, Any]]) -> Table:
    """A row a finished run."""
    head = ("Run", "FLOPs", "Loss", "Speech", "Text", "Word error")
    rows = [
        (
            run["name"],
            f"{run['flops']:.2e}",
            *(number(run.get(name)) for name in ("loss", "speech_nats", "text_nats")),
            percent(run.get("wer")),
        )
        for run in runs
    ]
    return Table(
        "Finished runs", head, rows, "Nats a token of held-out rows, by what is predicted."
    )


def fit_report(
    table: Path,
    *,
    plan: SweepPlan | None = None,
    curves: Sequence[Path] = (),
    out: Path | None = None,
    resamples: int = 500,
    seed: int = 0,
) -> dict[str, Any]:
    """Fits everything to a table of runs, and writes numbers, tables, figures and forecasts.

    Args:
        plan: whose held-out runs are forecast.
        curves: of `llasa curve`, for the inference-time law.
        out: folder for the files; None writes nothing.

    Returns:
        JSON-able: `forecast.analyse`'s, `forecasts` (what their files hold), and `search`.

    Raises:
        UserError: as `read_rows`, `analyse`, `read_search`, `search_law` and `forecast_file`.
    """
    rows = read_rows(table)
    trials = [] if plan is None else [trial for trial in ladder(plan) if trial.held_out]
    searches = [read_search(path) for path in curves]
    least = plan.fitted_from if plan is not None else 0.0
    analysis = analyse(rows, trials, fitted_from=least, resamples=resamples, seed=seed)
    found = {"table": table.name} | analysis
    found["search"] = search_law(searches) if searches else None
    code = code_version()
    names = {trial.name: f"forecast-{trial.name}.json" for trial in trials}
    place = out if out is not None else Path()
    found["forecasts"] = [
        forecast_file(place / names[trial.name], trial, found, rows, table, code)
        for trial in trials
    ]
    if out is None:
        return found
    text = "\n".join(map(markdown, fit_tables(found)))
    files = {
        "fit.json": json_bytes(found),
        "tables.md": text.encode(),
        "isoflop.png": isoflop_figure(rows, found),
        "compute.png": compute_figure(rows, found, found["forecasts"]),
    }
    for forecast in found["forecasts"]:
        files[names[forecast["run"]["name"]]] = json_bytes(forecast)
    if found["search"]:
        files["search.png"] = search_figure(found["search"])
    write_files(out, files)
    return found


def markdown(table: Table) -> str:
    """A table as Markdown, its caption above and its note below."""
    cells = [list(table.head), ["---"] * len(table.head), *map(list, table.rows)]
    lines = ["| " + " | ".join(cell or " " for cell in row) + " |" for row in cells]
    return f"**{table.caption}**\n\n" + "\n".join(lines) + f"\n\n{table.note}\n"


def fit_tables(found: Mapping[str, Any]) -> list[Table]:
    """All tables of a fit that have rows."""
    tables = [_laws(found), _optima(found), _backtests(found), _forecasts(found), _seeds(found)]
    tables += [_data(found)] + ([_mixes(found["search"])] if found["search"] else [])
    return [table for table in tables if table.rows]


def _laws(found: Mapping[str, Any]) -> Table:
    rows = []
    for kind, one in found["losses"].items():
        law, bounds = one["law"], one["intervals"]
        rows.append(
            [
                LOSSES[kind],
                *(
                    f"{_small(law[name])} ({interval(bounds[name], _small)})"
                    for name in ("e", "a", "alpha", "b", "beta")
                ),
                with_interval(one["n_exponent"], one["n_exponent_interval"], _two),
                with_interval(one["d_exponent"], one["d_exponent_interval"], _two),
                percent(one["residual"]),
            ]
        )
    head = ("Loss", "E", "A", "alpha", "B", "beta", "Best N as C^", "Best D as C^", "Residual")
    least = f" from {found['fitted_from']:.2g} FLOPs on" if found["fitted_from"] else ""
    note = (
        f"{found['runs']} runs{least}; intervals (95 %) of {found['resamples']} resamples of them."
    )
    return Table("L(N, D) = E + A / N^alpha + B / D^beta", head, rows, note)


def _small(value: float) -> str:
    return f"{value:.3g}" if value >= 1e-6 else "0"


def _two(value: Any) -> str:
    return f"{value:.2f}"


def _millions(value: float) -> str:
    return f"{value / 1e6:.3g} M"


def _optima(found: Mapping[str, Any]) -> Table:
    rows = []
    for kind, one in found["losses"].items():
        seen = {bottom["budget"]: bottom for bottom in one["parabolas"] if bottom["inside"]}
        for best in one["optima"]:
            bottom = seen.get(best["flops"])
            rows.append(
                [
                    LOSSES[kind],
                    f"{best['flops']:.1e}",
                    f"{_millions(best['n'])} ({interval(best['n_interval'], _millions)})",
                    f"{_millions(best['d'])} ({interval(best['d_interval'], _millions)})",
                    number(best["loss"]),
                    _millions(bottom["n"]) if bottom else "none inside",
                ]
            )
    head = ("Loss", "FLOPs", "Best N", "Best D", "Nats there", "N by the parabola")
    return Table("Where a budget is spent best", head, rows, "The last budget is extrapolated.")


def _backtests(found: Mapping[str, Any]) -> Table:
    rows = [
        [
            LOSSES[kind],
            f"{one['backtest']['budget']:.1e}",
            percent(one["backtest"]["best_relative_error"]),
            " ".join(map(percent, one["backtest"]["relative_errors"])),
            percent(one["backtest"]["power_law_relative_error"]),
        ]
        for kind, one in found["losses"].items()
        if one["backtest"]
    ]
    head = ("Loss", "Budget", "Best run", "All its runs", "Power law, best run")
    note = "Relative errors of what the smaller budgets forecast."
    return Table("The largest budget, forecast by the smaller ones", head, rows, note)


def _forecasts(found: Mapping[str, Any]) -> Table:
    rows = []
    for one in found["forecasts"]:
        for kind, told in one["forecast"].items():
            observed = (one["observed"] or {}).get(kind)
            error = (one["relative_error"] or {}).get(kind)
            rows.append(
                [
                    one["run"]["name"],
                    LOSSES[kind],
                    with_interval(told["value"], told["interval"]),
                    number(told["power_law"]),
                    "not run" if observed is None else number(observed),
                    "" if error is None else percent(error),
                ]
            )
    head = ("Run", "Loss", "Forecast", "Power law", "Observed", "Relative error")
    return Table("Held-out runs", head, rows, "Forecasts were made before the runs.")


def _seeds(found: Mapping[str, Any]) -> Table:
    rows = [
        [
            f"{one['budget']:.2g} FLOPs, {_millions(one['n'])} parameters",
            number(one["seeds"]),
            LOSSES[kind],
            number(one[kind]),
            f"{one[f'{kind}_deviation']:.4f} ({percent(one[f'{kind}_deviation'] / one[kind])})",
        ]
        for one in found["seeds"]
        for kind in found["losses"]
    ]
    return Table("Seeds", ("Point", "Seeds", "Loss", "Mean", "Deviation"), rows)


def _data(found: Mapping[str, Any]) -> Table:
    rows = [
        [
            one["name"],
            _millions(one["unique"]),
            _millions(one["d"]),
            *(number(one.get(kind)) for kind in LOSSES),
        ]
        for one in found["data"]
    ]
    head = ("Run", "Different tokens", "Tokens", *LOSSES.values())
    return Table("Sizes of data", head, rows, "One model, as many passes over each size.")


def _mixes(law: Mapping[str, Any]) -> Table:
    head = ["FLOPs a second of speech"]
    head += [f"{_millions(one['parameters'])}" for one in law["curves"]]
    rows = [
        [
            f"{mix['flops_s']:.1e}",
            *("" if wer is None else percent(wer) for wer in mix["wers"]),
            f"{_millions(mix['best'])}, N = {mix['candidates']:.1f}",
        ]
        for mix in law["mixes"]
    ]
    slopes = ", ".join(
        "unknown" if one["slope"] is None else f"{100 * one['slope']:+.1f}" for one in law["curves"]
    )
    note = f"Word error by {law['curves'][0]['judge']}; points a doubling of the cost: {slopes}."
    return Table("Parameters or candidates", [*head, "Best mix"], rows, note)
