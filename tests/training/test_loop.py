import json
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from llasa_jax.config import OptimizerConfig, TrainConfig
from llasa_jax.data.batches import by_step
from llasa_jax.errors import UserError
from llasa_jax.training import loop, record
from llasa_jax.training.loop import fit, kept_along
from llasa_jax.training.meter import TIMED
from llasa_jax.training.record import read_curve
from llasa_jax.training.step import (
    Objective,
    Rival,
    initial_state,
    learning,
    mean_gradient,
    train_step,
)

CONFIG = TrainConfig(
    steps=24,
    batch=4,
    optimizer=OptimizerConfig(peak=0.05, warmup=0.1),
    log_every=3,
    valid_every=10,
    save_every=5,
)


pytestmark = pytest.mark.usefixtures("compiled_once")


class Interrupted(Exception):
    pass


def init(key):
    return {"kernel": jax.random.normal(key, (3, 2)), "bias": jnp.zeros(2)}


def loss(params, batch, key):
    noise = 0.1 * jax.random.normal(key, (2,))
    error = batch["x"] @ params["kernel"] + params["bias"] + noise - batch["y"]
    bad = jnp.where(batch["bad"], jnp.nan, 1.0)
    return bad * jnp.mean(error**2), {"error": jnp.mean(jnp.abs(error))}


TOY = Objective("toy", init, loss)
TARGET = np.random.default_rng(0).normal(size=(3, 2)).astype(np.float32)


def batches(bad=(), stop=None):
    """Batch i, a function of i alone; NaN at the steps `bad`, an error at the step `stop`."""

    def build(step):
        if step == stop:
            raise Interrupted
        x = np.random.default_rng(step).normal(size=(4, 3)).astype(np.float32)
        return {"x": x, "y": x @ TARGET, "bad": np.bool_(step in bad)}

    return by_step(build)


def validate(params, step):
    return {"distance": jnp.linalg.norm(params["kernel"] - TARGET)}


def run(folder, data=None, config=CONFIG, **settings):
    settings = {"seed": 0, "validate": validate} | settings
    return fit(TOY, data or batches(), config, folder, **settings)


def untimed(curve):
    return [{k: v for k, v in row.items() if k not in TIMED} for row in curve]


def same(a, b):
    return jax.tree.all(jax.tree.map(np.array_equal, a, b))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    return folder, run(folder)


def test_a_run_learns_and_leaves_a_row_an_interval(undisturbed):
    folder, fitted = undisturbed
    assert fitted.steps == 24
    # Every log_every-th, valid_every-th and save_every-th step, and the last.
    steps = [3, 5, 6, 9, 10, 12, 15, 18, 20, 21, 24]
    assert [row["step"] for row in fitted.curve] == steps
    assert [row["step"] for row in fitted.curve if "valid_distance" in row] == [10, 20, 24]
    assert fitted.curve[-1]["loss"] < 0.5 * fitted.curve[0]["loss"]
    names = {"step", "loss", "error", "grad_norm", "rate", "skipped", "spiked"}
    assert set(fitted.curve[0]) == names | {"data_wait", "goodput"}
    np.testing.assert_allclose(
        fitted.curve[-1]["valid_distance"], validate(fitted.params, 0)["distance"]
    )
    assert read_curve(folder / "curve.csv") == fitted.curve
    assert all(np.isfinite(value) for row in fitted.curve for value in row.values())


def test_a_finished_run_returns_what_it_left(undisturbed):
    folder, fitted = undisturbed
    again = run(folder, batches(stop=0))
    assert same(again.params, fitted.params)
    assert (again.curve, again.steps) == (fitted.curve, fitted.steps)


def test_an_interrupted_run_ends_as_the_undisturbed_one(undisturbed, tmp_path):
    folder, fitted = undisturbed
    for stop, row in ((7, 6), (18, 15), (19, 18)):  # a row waits until the next step is under way
        with pytest.raises(Interrupted):
            run(tmp_path, batches(stop=stop))
        assert read_curve(tmp_path / "curve.csv")[-1]["step"] == row
    resumed = run(tmp_path)
    assert same(resumed.params, fitted.params)
    assert untimed(resumed.curve) == untimed(fitted.curve)
    assert read_curve(tmp_path / "curve.csv") == resumed.curve
    assert (tmp_path / "plan.json").read_bytes() == (folder / "plan.json").read_bytes()


def test_the_seed_decides_everything(undisturbed, tmp_path):
    _, fitted = undisturbed
    assert same(run(tmp_path / "same").params, fitted.params)
    assert not same(run(tmp_path / "other", seed=1).params, fitted.params)


@pytest.mark.parametrize("settings", [{"seed": 1}, {"config": TrainConfig(steps=25)}])
def test_a_folder_belongs_to_one_run(undisturbed, settings):
    with pytest.raises(UserError, match="holds a run with other settings or seed"):
        run(undisturbed[0], **settings)


def test_a_broken_plan_is_refused(tmp_path):
    (tmp_path / "plan.json").write_text('{"steps": 2')
    with pytest.raises(UserError, match="holds a run with other settings"):
        run(tmp_path)


def test_steps_that_are_not_finite_are_skipped_and_counted(tmp_path):
    fitted = run(tmp_path, batches(bad=(0, 6, 7)))
    skipped = {row["step"]: row["skipped"] for row in fitted.curve if row["skipped"]}
    assert skipped == {3: 1, 9: 2}


class Clock:
    """Time as `fit` sees it at its start and at its looks, after 8, 16, 32, ... steps."""

    def __init__(self, *seconds):
        self.now = iter(seconds or (0, 18, 26))

    def monotonic(self):
        return next(self.now)


def test_a_budget_shortens_the_run_once(tmp_path, monkeypatch):
    monkeypatch.setattr(record, "time", Clock())
    # 16 steps take 26 s; the 5 s left of 31 afford 5 more, of 24.
    with pytest.raises(Interrupted):
        run(tmp_path, batches(stop=18), budget=31)
    plan = json.loads((tmp_path / "plan.json").read_text())
    assert (plan["steps"], plan["decided"]) == (21, True)
    monkeypatch.setattr(record, "time", Clock())
    resumed = run(tmp_path, budget=1000)
    assert resumed.steps == 21 and resumed.curve[-1]["step"] == 21
    # The schedule spans the new length: the last rate is near the final one.
    assert resumed.curve[-1]["rate"] < 0.2 * CONFIG.optimizer.peak


def test_a_second_look_mends_what_the_first_one_promised(tmp_path, monkeypatch):
    """8 steps in 8 s promise 66 steps in 68 s; then 16 take 32 s: the 18 s left afford 9 more."""
    monkeypatch.setattr(record, "time", Clock(0, 10, 18, 50))
    config = replace(CONFIG, steps=100, valid_every=100, save_every=100)
    assert run(tmp_path, config=config, budget=68).steps == 41


@pytest.mark.parametrize("stop", [6, 12])
def test_a_budget_undecided_before_an_interruption_is_decided_after(tmp_path, monkeypatch, stop):
    with pytest.raises(Interrupted):
        run(tmp_path, batches(stop=stop))
    monkeypatch.setattr(record, "time", Clock())
    start = stop // 5 * 5
    assert run(tmp_path, budget=28).steps == min(24, start + 16 + 2)


def test_enough_time_shortens_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(record, "time", Clock())
    assert run(tmp_path, budget=1e6).steps == 24


def test_no_time_left_ends_the_run_where_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr(record, "time", Clock())
    fitted = run(tmp_path, budget=1)
    assert fitted.steps == fitted.curve[-1]["step"] == 16
    assert "valid_distance" in fitted.curve[-1]


def test_the_mean_of_the_parameters_is_kept_and_validated(tmp_path):
    config = TrainConfig(steps=4, ema=0.5, log_every=1, optimizer=OptimizerConfig(peak=0.05))
    fitted = run(tmp_path, config=config)
    init_key, key = jax.random.split(jax.random.key(0))
    state = initial_state(TOY, config, init_key)
    mean = state["model"]["params"]
    step = jax.jit(lambda state, batch: train_step(TOY, config, state, {}, batch, key, 4))
    data = batches()
    for i in range(4):
        state, _ = step(state, data[i])
        mean = jax.tree.map(lambda m, p: 0.5 * m + 0.5 * p, mean, state["model"]["params"])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), fitted.params, mean)
    assert not same(fitted.params, state["model"]["params"])
    distance = validate(fitted.params, 0)["distance"]
    np.testing.assert_allclose(fitted.curve[-1]["valid_distance"], distance, rtol=1e-6)


def test_a_step_that_is_not_finite_changes_nothing_but_the_count():
    def infinite_gradient(params, batch, key):
        return jnp.sqrt(params["bias"].sum() * batch["x"]), {}

    objective, config = Objective("toy", init, infinite_gradient), TrainConfig(ema=0.9)
    state, key = initial_state(objective, config, jax.random.key(0)), jax.random.key(0)
    step = jax.jit(lambda state, x: train_step(objective, config, state, {}, {"x": x}, key, 10))
    after, metrics = step(state, 1.0)
    assert metrics["skipped"] == 1 and np.isfinite(metrics["loss"])
    assert after["step"] == 1
    assert same(after | {"step": 0}, state | {"step": 0})


def test_a_curve_without_some_cells_is_read_without_them(tmp_path):
    (tmp_path / "curve.csv").write_text("step,loss,valid_loss\n1,0.5,\n2,0.25,1e-3\n")
    assert read_curve(tmp_path / "curve.csv") == [
        {"step": 1, "loss": 0.5},
        {"step": 2, "loss": 0.25, "valid_loss": 0.001},
    ]
    assert read_curve(tmp_path / "none.csv") == []


def rivalled(start=0.5, clip=1e9):
    """A toy whose loss has an adversary, and a frozen shift in what it sees."""

    def judge(key):
        return {"kernel": jax.random.normal(key, (2,))}

    def contest(params, batch, key):
        found = batch["x"] @ params["kernel"] + params["shift"]
        error = jnp.mean(jnp.square(found - batch["y"]))
        if "judge" not in params:
            return error, {"error": error}
        stop = jax.lax.stop_gradient
        ours = jnp.mean(found @ stop(params["judge"]["kernel"]))
        theirs = jnp.mean((batch["y"] - stop(found)) @ params["judge"]["kernel"])
        return error + ours + theirs, {"error": error, "theirs": theirs}

    optimizer = OptimizerConfig(peak=0.02, start=1.0, clip=clip, weight_decay=0.0)
    rival = Rival("judge", judge, {"kernel": (None,)}, optimizer, start)
    shift = np.float32([0.5, -0.5])
    return Objective("contest", init, contest, frozen={"shift": shift}, rival=rival)


def test_a_rival_joins_in_at_its_start(tmp_path):
    objective = rivalled()
    config = replace(CONFIG, steps=6, log_every=1, save_every=6)
    fitted = fit(objective, batches(), config, tmp_path, seed=0)
    assert ["theirs" in row for row in fitted.curve] == [False] * 3 + [True] * 3
    assert ["judge_rate" in row for row in fitted.curve] == [False] * 3 + [True] * 3
    # Its schedule spans what is left of the run: from the peak to a tenth.
    np.testing.assert_allclose(fitted.curve[3]["judge_rate"], 0.02)
    assert set(fitted.params) == {"kernel", "bias"}


def test_an_interruption_on_either_side_of_the_start_changes_nothing(tmp_path):
    config = replace(CONFIG, steps=8, log_every=1, save_every=2)
    whole = fit(rivalled(), batches(), config, tmp_path / "whole", seed=0)
    for stop in (3, 7):
        with pytest.raises(Interrupted):
            fit(rivalled(), batches(stop=stop), config, tmp_path / "parts", seed=0)
    resumed = fit(rivalled(), batches(), config, tmp_path / "parts", seed=0)
    assert same(resumed.params, whole.params)
    assert untimed(resumed.curve) == untimed(whole.curve)


def test_model_and_rival_are_clipped_each_by_its_own_norm():
    """A tenth of the clipped gradient is Adam's first moment; the rival's gradient is huge."""
    config = TrainConfig(optimizer=OptimizerConfig(clip=1.0), batch=4)
    objective = rivalled(start=0.0, clip=1.0)
    state = initial_state(objective, config, jax.random.key(0))
    batch = {k: 1000 * v for k, v in batches()[0].items() if k != "bad"}
    frozen, key = objective.frozen, jax.random.key(0)
    new, metrics = jax.jit(lambda s: train_step(objective, config, s, frozen, batch, key, 10))(
        state
    )
    assert metrics["grad_norm"] > 1 and metrics["judge_grad_norm"] > 1
    for name in ("model", "rival"):
        moment = optax.tree.get(new[name]["opt"], "mu")
        np.testing.assert_allclose(optax.tree.norm(moment), 0.1, rtol=1e-4)


def test_a_waiting_rival_is_left_as_it_is():
    config, objective = TrainConfig(), rivalled()
    state = initial_state(objective, config, jax.random.key(0))
    assert set(state) == {"step", "model", "rival", "spikes"}
    assert set(learning(objective, state, 0.49)) == {"step", "model", "spikes"}
    assert learning(objective, state, 0.5) == state


def test_a_gradient_of_parts_is_that_of_the_whole():
    params = init(jax.random.key(0))
    batch = {k: np.repeat(v, 2, axis=0) for k, v in batches()[0].items() if k != "bad"}
    batch["x"] = batch["x"] + np.arange(8, dtype=np.float32)[:, None]

    def loss(params, batch, key):
        error = jnp.mean(jnp.square(batch["x"] @ params["kernel"] - batch["y"]))
        return error, {"error": error}

    key = jax.random.key(0)

    def run(loss, parts, **settings):
        take = partial(mean_gradient, loss, parts=parts, **settings)
        return jax.jit(take)(params, batch, key)

    whole, parts = run(loss, 1), run(loss, 4)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4), parts, whole)

    # A mean over rows of which some count more: parts weigh what their rows do.
    batch["weight"] = np.float32([0, 0, 3, 1, 0, 5, 0, 0])

    def weighted(params, batch, key):
        error = jnp.square(batch["x"] @ params["kernel"] - batch["y"]).sum(-1)
        mean = jnp.sum(error * batch["weight"]) / jnp.maximum(batch["weight"].sum(), 1.0)
        return mean, {"error": mean}

    whole, alike = run(weighted, 1), run(weighted, 4)
    parts = run(weighted, 4, weight=lambda batch: batch["weight"].sum())
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4), parts, whole)
    assert not np.isclose(alike[0][0], whole[0][0], rtol=0.1)


SPIKY = replace(CONFIG, steps=16, spike_window=6, log_every=1, save_every=10, valid_every=16)


def spiky(stop=None):
    """Batches whose targets lie far off at step 13."""
    data = batches(stop=stop)
    far = lambda batch, i: batch | ({"y": batch["y"] + 1e4} if i == 12 else {})  # noqa: E731
    return by_step(lambda step: far(data[step], step))


def test_a_spike_is_skipped_and_counted_also_after_a_restart(tmp_path):
    whole = run(tmp_path / "whole", spiky(), SPIKY)
    assert [row["step"] for row in whole.curve if row["spiked"]] == [13]
    assert [row["step"] for row in whole.curve if row["skipped"]] == [13]
    assert whole.curve[12]["loss"] > 1e6 > 1e3 > whole.curve[13]["loss"]
    # The window is that of the steps before the checkpoint: three alone would not fill it.
    with pytest.raises(Interrupted):
        run(tmp_path / "parts", spiky(stop=12), SPIKY)
    resumed = run(tmp_path / "parts", spiky(), SPIKY)
    assert same(resumed.params, whole.params)
    assert untimed(resumed.curve) == untimed(whole.curve)


def test_a_spike_is_taken_where_none_is_looked_for(tmp_path):
    fitted = run(tmp_path, spiky(), replace(SPIKY, spike_sigmas=0.0))
    assert "spiked" not in fitted.curve[0] and not any(row["skipped"] for row in fitted.curve)


def test_a_run_begins_with_given_parameters(tmp_path):
    given = {"kernel": TARGET.copy(), "bias": np.zeros(2, np.float32)}
    config = replace(CONFIG, steps=1, optimizer=OptimizerConfig(peak=1e-9))
    fitted = fit(replace(TOY, begin=given), batches(), config, tmp_path, seed=0)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), fitted.params, given)


def test_between_saves_nothing_is_moved_unasked(tmp_path, monkeypatch):
    """From batch 4 to 12 a guard refuses transfers that the code does not spell out."""
    place, old, placed = loop.place_batch, jax.config.jax_transfer_guard, []

    def guarded(*given):
        placed.append(given)
        if len(placed) in (4, 12):
            jax.config.update("jax_transfer_guard", "disallow" if len(placed) == 4 else old)
        return place(*given)

    monkeypatch.setattr(loop, "place_batch", guarded)
    config = replace(CONFIG, steps=16, save_every=16, valid_every=16)
    try:
        assert run(tmp_path, config=config).steps == 16
    finally:
        jax.config.update("jax_transfer_guard", old)
    assert len(placed) >= 16


def events(folder):
    """(step, tag, value) in TensorBoard's files of length, checksum, event, checksum."""
    from tensorboardX.proto.event_pb2 import Event

    found = []
    for path in sorted(folder.glob("events.*")):
        data = path.read_bytes()
        while data:
            size = int.from_bytes(data[:8], "little")
            event, data = Event.FromString(data[12 : 12 + size]), data[16 + size :]
            found += [(event.step, v.tag, v.simple_value) for v in event.summary.value]
    return found


def test_the_curve_is_there_for_tensorboard(undisturbed):
    folder, fitted = undisturbed
    expected = [(row["step"], k, v) for row in fitted.curve for k, v in row.items() if k != "step"]
    found = events(folder / "tensorboard")
    assert [one[:2] for one in found] == [one[:2] for one in expected]
    np.testing.assert_allclose([v for *_, v in found], [v for *_, v in expected], rtol=1e-6)


def test_a_row_with_a_new_column_rewrites_the_table(tmp_path):
    curve = record.Curve(tmp_path, 0)
    rows = [{"step": 1, "a": 1.0}, {"step": 2, "a": 2.0}, {"step": 3, "a": 3.0, "b": 0.5}]
    for row in [*rows, {"step": 4, "a": 4.0}]:
        curve.write(row)
    curve.close()
    assert read_curve(tmp_path / "curve.csv") == [*rows, {"step": 4, "a": 4.0}]


def test_checkpoints_along_the_way_are_kept_and_read_again(undisturbed, tmp_path):
    with pytest.raises(UserError, match="holds no checkpoint"):
        next(kept_along(TOY, CONFIG, tmp_path))
    config = replace(CONFIG, keep_every=10)
    fitted = fit(TOY, batches(), config, tmp_path / "run", seed=0)
    found = dict(kept_along(TOY, config, tmp_path / "run"))
    assert list(found) == [10, 20, 24]  # beside those, the last two
    half = fit(TOY, batches(), replace(config, keep_every=5), tmp_path / "run", seed=0)
    for params in (fitted.params, half.params):
        jax.tree.map(np.testing.assert_array_equal, found[24], params)
    assert not np.array_equal(found[10]["kernel"], found[20]["kernel"])
