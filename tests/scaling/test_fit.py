"""The fitter finds what is known: exponents under noise, a published fit, and its own forecast."""

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest

from llasa_jax import cli
from llasa_jax.errors import UserError
from llasa_jax.scaling.fit import Law, Runs, fit_law, fit_power, parabolas, resampled
from llasa_jax.scaling.table import COLUMNS, read_rows

TRUTH = Law(e=1.8, a=480.0, b=2000.0, alpha=0.35, beta=0.37)
PEERS = Path(os.environ.get("LLASA_PEERS", "none"))


def ladder_of(law, budgets, noise=0.0, seed=0, sizes=7, spread=5.0):
    """Runs of a law: `sizes` models around the best of each budget, log-normal noise."""
    rng = np.random.default_rng(seed)
    n, d, c = [], [], []
    for budget in budgets:
        best, _ = law.optimum(budget)
        for ratio in np.geomspace(1 / spread, spread, sizes):
            n.append(best * ratio)
            d.append(budget / 6 / n[-1])
            c.append(budget)
    n, d = np.array(n), np.array(d)
    return Runs(n, d, np.array(c), law(n, d) * np.exp(noise * rng.normal(size=len(n))))


BUDGETS = np.geomspace(1e18, 1e22, 9)


def test_the_law_itself_is_found_without_noise():
    found = fit_law(ladder_of(TRUTH, BUDGETS))
    for name in ("e", "a", "b", "alpha", "beta"):
        assert getattr(found, name) == pytest.approx(getattr(TRUTH, name), rel=1e-3)


@pytest.mark.parametrize("seed", range(5))
def test_known_exponents_are_recovered_within_3_percent(seed):
    """0.1 % of noise: seeds of language models differ by 0.1 to 0.2 % (docs/scaling.md)."""
    found = fit_law(ladder_of(TRUTH, BUDGETS, noise=1e-3, seed=seed))
    assert found.alpha == pytest.approx(TRUTH.alpha, rel=0.03)
    assert found.beta == pytest.approx(TRUTH.beta, rel=0.03)
    assert found.exponent == pytest.approx(TRUTH.exponent, rel=0.03)


def test_an_outlier_hardly_moves_the_law():
    runs = ladder_of(TRUTH, BUDGETS, noise=1e-3)
    runs.loss[11] *= 1.3
    assert fit_law(runs).exponent == pytest.approx(TRUTH.exponent, rel=0.03)


def test_intervals_cover_the_truth():
    runs = ladder_of(TRUTH, BUDGETS[::2], noise=2e-3)
    laws = resampled(runs, 40, 0, fit_law(runs))
    low, high = np.quantile([law.exponent for law in laws], (0.025, 0.975))
    assert low < TRUTH.exponent < high < 0.65
    again = resampled(runs, 3, 0, fit_law(runs))
    assert again == laws[:3]


def test_parabolas_find_the_best_size():
    runs = ladder_of(TRUTH, BUDGETS, sizes=9, spread=2.0)
    found = parabolas(runs, runs.flops)
    assert len(found) == len(BUDGETS) and all(one.inside for one in found)
    for one in found:
        assert one.n == pytest.approx(TRUTH.optimum(one.budget)[0], rel=0.05)
        assert one.d == pytest.approx(TRUTH.optimum(one.budget)[1], rel=0.05)
    grown = fit_power(np.array([p.budget for p in found]), np.array([p.n for p in found]))
    assert grown.exponent == pytest.approx(TRUTH.exponent, rel=0.02)


def test_a_bottom_outside_the_sizes_is_said_to_be():
    runs = ladder_of(TRUTH, [1e20], sizes=9, spread=4.0)
    some = runs.take(runs.n > 1.5 * TRUTH.optimum(1e20)[0])
    assert not parabolas(some, some.flops)[0].inside


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda runs: runs.take(np.arange(5)), "5 runs"),
        (lambda runs: Runs(np.full(len(runs), 1e6), runs.d, runs.flops, runs.loss), "same n"),
    ],
)
def test_what_cannot_be_fitted_is_refused(change, words):
    with pytest.raises(UserError, match=words):
        fit_law(change(ladder_of(TRUTH, BUDGETS)))


@pytest.mark.parity
def test_a_published_fit_is_reproduced():
    """Besiroglu et al. 2024 (2404.10102), on runs of Hoffmann et al. read off a figure.

    Their table has no licence, so it is not carried here: clone
    github.com/epoch-research/analyzing-chinchilla into the folder that LLASA_PEERS names. As they
    do, the five runs of the fewest tokens a parameter are left out.
    """
    path = PEERS / "analyzing-chinchilla" / "data" / "svg_extracted_data.csv"
    if not path.is_file():
        pytest.skip("clone epoch-research/analyzing-chinchilla into the folder LLASA_PEERS names")
    rows = list(csv.DictReader(path.open()))
    n, c, loss = (
        np.array([float(row[name]) for row in rows])
        for name in ("Model Size", "Training FLOP", "loss")
    )
    runs = Runs(n, c / 6 / n, c, loss)
    found = fit_law(runs.take(np.argsort(runs.d / runs.n)[5:]))
    published = {"e": (1.8172, 0.03), "alpha": (0.3478, 0.02), "beta": (0.3658, 0.02)}
    for name, (value, error) in published.items():
        assert abs(getattr(found, name) - value) < error
    assert abs(found.a - 482.01) < 124.58 and abs(found.b - 2085.43) < 1293.23
    assert found.exponent == pytest.approx(0.512, abs=0.01)


PLAN = """
from llasa_jax.config import *

def get_config():
    run = DecoderRun(lm=DecoderConfig(text_vocab=268, codes=4096))
    widths = (64, 96, 128, 192, 256)
    rungs = [RungConfig(c, widths) for c in (1e13, 4e13, 1.6e14)]
    held_out = RungConfig(1.6e15, (256,), held_out=True)
    return SweepPlan(run=run, rungs=(*rungs, held_out))
"""
SMALL = Law(e=2.0, a=60.0, b=3000.0, alpha=0.3, beta=0.5)


@pytest.fixture
def table(tmp_path):
    """A plan, and a table of its runs by a known law: (folder, rows)."""
    from llasa_jax.config import SweepPlan, load_config
    from llasa_jax.parallel.flops import parameter_count
    from llasa_jax.scaling.ladder import ladder
    from llasa_jax.scaling.table import rows_text

    (tmp_path / "plan.py").write_text(PLAN)
    rng, rows = np.random.default_rng(0), []
    for trial in ladder(load_config(str(tmp_path / "plan.py"), SweepPlan)):
        n = parameter_count(trial.run.lm)
        loss = SMALL(n, trial.tokens) * np.exp(1e-3 * rng.normal())
        kinds = {"loss": loss, "speech_nats": 1.2 * loss, "text_nats": 0.5 * loss}
        same = {"name": trial.name, "n": n, "d": trial.tokens, "flops": trial.flops}
        rows.append(same | kinds | {"budget": trial.budget, "held_out": int(trial.held_out)})
    (tmp_path / "runs.csv").write_text(rows_text(rows[:-1]))
    return tmp_path, rows


def fit(folder, *more):
    given = ["fit", str(folder / "runs.csv"), "--resamples", "20", "--json", *more]
    return cli.main(given)


def test_a_forecast_is_made_once_and_then_compared(capsys, table):
    from llasa_jax.scaling.table import rows_text

    folder, rows = table
    held = rows[-1]
    given = ["--plan", str(folder / "plan.py"), "--out", str(folder / "out")]
    assert fit(folder, *given) == 0
    (path,) = (folder / "out").glob("forecast-*.json")
    first = json.loads(path.read_text())
    told = first["forecast"]["loss"]
    low, high = told["interval"]
    assert low < told["value"] < high and abs(told["value"] / held["loss"] - 1) < 0.02
    assert first["observed"] is None and first["run"]["name"] == held["name"]
    names = {"fit.json", "tables.md", "isoflop.png", "compute.png", path.name}
    assert {file.name for file in (folder / "out").iterdir()} == names

    (folder / "runs.csv").write_text(rows_text(rows[:-2]))  # fewer runs: it stays as it was made
    assert fit(folder, *given) == 0
    assert json.loads(path.read_text()) == first

    (folder / "runs.csv").write_text(rows_text(rows))
    capsys.readouterr()
    assert fit(folder, *given) == 0
    found = json.loads(capsys.readouterr().out)
    after = json.loads(path.read_text())
    assert after["forecast"] == first["forecast"] and after["made"] == first["made"]
    assert after["observed"]["loss"] == pytest.approx(held["loss"])
    error = told["value"] / held["loss"] - 1
    assert after["relative_error"]["loss"] == pytest.approx(error)
    assert abs(after["power_law_relative_error"]["loss"]) > abs(error)
    assert [run["name"] for run in after["runs"]] == [held["name"]]
    assert found["runs"] == len(rows) - 1  # what is held out is never fitted
    assert "Held-out runs" in (folder / "out" / "tables.md").read_text()

    path.unlink()  # too late to forecast
    assert fit(folder, *given) == 2
    assert "cannot be forecast" in capsys.readouterr().err


def test_budgets_below_the_fitted_ones_only_stand_beside(capsys, table):
    from llasa_jax.scaling.table import rows_text

    folder, rows = table
    least = min(row["budget"] for row in rows)
    small = [row for row in rows if row["budget"] == least]
    changed = [row | {"loss": 1.2 * row["loss"]} if row in small else row for row in rows[:-1]]
    again = [row | {"name": row["name"] + "-s1"} for row in small]
    runs = [row | {"seed": seed} for seed, some in enumerate((changed, again)) for row in some]
    (folder / "runs.csv").write_text(rows_text(runs))
    plan = folder / "plan.py"
    plan.write_text(plan.read_text().replace("rungs=", f"fitted_from={1.01 * least}, rungs="))
    assert fit(folder, "--plan", str(plan), "--out", str(folder / "out")) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["runs"] == len(rows) - 1 - len(small)
    assert found["losses"]["loss"]["residual"] < 0.005
    used = found["forecasts"][0]["inputs"]["runs"]
    assert len(used) == found["runs"] and not {row["name"] for row in small} & set(used)
    assert {point["budget"] for point in found["seeds"]} == {least}


def test_any_table_with_four_columns_will_do(capsys, table):
    folder, rows = table
    lines = ["n,d,flops,loss", *(f"{r['n']},{r['d']},{r['flops']},{r['loss']}" for r in rows)]
    (folder / "runs.csv").write_text("\n".join(lines))
    assert fit(folder) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found["losses"]) == ["loss"]
    assert found["losses"]["loss"]["n_exponent"] == pytest.approx(SMALL.exponent, rel=0.1)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("n,d,loss\n1,2,3\n", "has no column flops"),
        ("n,d,flops,loss\n1,nan,3,4\n", "line 2: d"),
        ("n,d,flops,loss\n", "no runs"),
        ("n,d,flops,other\n1,2,3,4\n", "no runs with one of"),
        ("n,d,flops,loss\n1,2,3,4\n", "1 runs"),
        ("\x00\xff", "no column"),
    ],
)
def test_a_table_of_no_use_is_refused(capsys, tmp_path, text, words):
    (tmp_path / "runs.csv").write_text(text)
    assert fit(tmp_path) == 2
    assert words in capsys.readouterr().err


def test_every_column_is_explained():
    assert all(COLUMNS.values()) and {"n", "d", "flops"} < set(COLUMNS)
    with pytest.raises(UserError, match="cannot be read"):
        read_rows(Path("nowhere.csv"))
