"""The figures of a ladder: budgets, compute and forecast, and the mix of parameters and takes."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import (
    EngFormatter,
    FuncFormatter,
    LogLocator,
    NullFormatter,
    PercentFormatter,
)

from llasa_jax.evaluation.figures import WIDTH, drawn
from llasa_jax.scaling.fit import Law, Parabola, PowerLaw
from llasa_jax.scaling.forecast import LOSSES, budgets_of, fitted_rows, ladder_rows

MARKS = "osD^vPX*"


def _panels(count: int) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(0.72 * WIDTH * count + 0.6, 3.6), layout="constrained")
    return figure, list(np.atleast_1d(figure.subplots(1, count)))


def _log(axis: Any, show: Callable[[float], str]) -> None:
    """Labels of an axis that was made logarithmic."""
    axis.set_major_formatter(FuncFormatter(lambda value, place: show(value)))
    axis.set_minor_formatter(NullFormatter())


def _power(value: float) -> str:
    return f"{value:.2g}".replace("e+", "e")


@drawn
def isoflop_figure(rows: Sequence[Mapping[str, Any]], found: Mapping[str, Any]) -> Figure:
    """Loss against parameters, a line a budget: runs, parabolas, and the law at each size."""
    rows = fitted_rows(rows, found["fitted_from"])
    budgets = budgets_of(rows)
    figure, panels = _panels(len(found["losses"]))
    for axis, (kind, one) in zip(panels, found["losses"].items(), strict=True):
        law = Law(**one["law"])
        for place, budget in enumerate(np.unique(budgets)):
            some = [row for row, mine in zip(rows, budgets, strict=True) if mine == budget]
            n, loss = (np.array([row[name] for row in some]) for name in ("n", kind))
            style = {"color": f"C{place % 4}", "marker": MARKS[place % len(MARKS)]}
            axis.plot(n, loss, linestyle="none", label=f"{_power(budget)} FLOPs", **style)
            order = np.argsort(n)
            sizes = np.geomspace(n.min(), n.max(), 60)
            d = np.array([row["d"] for row in some])[order]
            tokens = np.exp(np.interp(np.log(sizes), np.log(n[order]), np.log(d)))
            axis.plot(sizes, law(sizes, tokens), color=style["color"], linewidth=1.2)
            for parabola in (Parabola(**x) for x in one["parabolas"] if x["budget"] == budget):
                axis.plot(sizes, parabola(sizes), color="0.45", linestyle=":", linewidth=1.2)
                if parabola.inside:
                    axis.plot(parabola.n, parabola.loss, "+", color="0.3", markersize=10)
        axis.set(xscale="log", xlabel="parameters", ylabel="nats a token")
        axis.set_title(LOSSES[kind])
        _log(axis.xaxis, EngFormatter(sep=""))
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    handles, labels = panels[0].get_legend_handles_labels()
    title = "points: runs; lines: law; dotted: parabola"
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), title=title)
    return figure


@drawn
def compute_figure(
    rows: Sequence[Mapping[str, Any]],
    found: Mapping[str, Any],
    forecasts: Sequence[Mapping[str, Any]],
) -> Figure:
    """Loss against FLOPs: runs, the law where N and D are best, the power law, the forecasts."""
    below = [row for row in ladder_rows(rows) if row not in fitted_rows(rows, found["fitted_from"])]
    rows = fitted_rows(rows, found["fitted_from"])
    budgets = budgets_of(rows)
    figure, panels = _panels(len(found["losses"]))
    flops = np.array([row["flops"] for row in rows])
    last = max([flops.max(), *(one["run"]["flops"] for one in forecasts)])
    x = np.geomspace(flops.min(), 1.3 * last, 100)
    for axis, (kind, one) in zip(panels, found["losses"].items(), strict=True):
        loss, law = np.array([row[kind] for row in rows]), Law(**one["law"])
        for place, budget in enumerate(np.unique(budgets)):
            mine = budgets == budget
            mark = MARKS[place % len(MARKS)]
            axis.plot(flops[mine], loss[mine], mark, color=f"C{place % 4}", alpha=0.7)
        if below:
            x_below, y_below = ([row[name] for row in below] for name in ("flops", kind))
            axis.plot(x_below, y_below, ".", color="0.6", label="not fitted")
        best = [law(*law.optimum(c, one["flops_a_token_and_parameter"])) for c in x]
        axis.plot(x, best, color="0.3", label="law, best N and D")
        axis.plot(
            x, PowerLaw(**one["power_law"])(x), color="0.6", linestyle="--", label="power law"
        )
        for forecast in forecasts:
            told, size = forecast["forecast"][kind], f"{forecast['run']['n'] / 1e6:.2g} M"
            value, bounds = told["value"], np.array(told["interval"])
            axis.errorbar(
                forecast["run"]["flops"],
                value,
                np.abs(bounds - value)[:, None],
                fmt="o",
                color="C1",
                capsize=4,
                label=f"{size}: forecast {value:.2f}",
            )
            observed = (forecast["observed"] or {}).get(kind)
            if observed is not None:
                label = f"{size}: observed {observed:.2f}"
                axis.plot(forecast["run"]["flops"], observed, "x", color="C3", label=label)
        axis.set(xscale="log", xlabel="FLOPs of training", ylabel="nats a token")
        _log(axis.xaxis, _power)
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
        axis.set_title(LOSSES[kind])
        axis.legend(fontsize=8)
    return figure


@drawn
def search_figure(law: Mapping[str, Any]) -> Figure:
    """Word error against the FLOPs of a second of speech, a line a model; the best mix below."""
    figure = Figure(figsize=(1.1 * WIDTH, 3.8), layout="constrained")
    axis = figure.subplots()
    for place, one in enumerate(law["curves"]):
        x, y = (np.array([p[k] for p in one["points"]]) for k in ("flops_s", "wer"))
        bounds = np.array([p["wer_interval"] for p in one["points"]])
        style = {"color": f"C{place % 4}", "marker": MARKS[place % len(MARKS)]}
        label = f"{one['parameters'] / 1e6:.2f} M parameters"
        axis.errorbar(x, y, np.abs(bounds.T - y), capsize=3, label=label, **style)
        for point in one["points"]:
            spot = (point["flops_s"], point["wer"])
            axis.annotate(f"N={point['n']}", spot, (4, 5), textcoords="offset points", fontsize=8)
    x, y = (np.array([mix[k] for mix in law["mixes"]]) for k in ("flops_s", "wer"))
    axis.plot(x, y, color="0.4", linewidth=5, alpha=0.25, label="best mix")
    axis.set(xscale="log", xlabel="decoder FLOPs a second of speech", ylabel="word error")
    _log(axis.xaxis, _power)
    axis.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axis.legend(fontsize=8)
    return figure
