"""The training loop, one for codec, language model and recognisers; it reads top to bottom."""

import csv
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import grain
import jax
import jax.numpy as jnp
import optax

from llasa_jax.config import TrainConfig, config_hash
from llasa_jax.console import bar, log
from llasa_jax.errors import UserError
from llasa_jax.training.checkpoints import Checkpoints
from llasa_jax.training.optimizers import learning_rate, make_optimizer

WARM_STEPS = 8  # a run with a time budget first looks at its rate after as many steps


@dataclass(frozen=True)
class Objective:
    """What a run minimises: `init(key) -> params`, `loss(params, batch, key) -> loss, metrics`."""

    name: str
    init: Callable[[jax.Array], dict]
    loss: Callable[[dict, dict, jax.Array], tuple[jax.Array, dict]]


@dataclass(frozen=True)
class Fitted:
    """What a run leaves: its parameters, its curve (a row a logged step) and its steps."""

    params: dict
    curve: list[dict]
    steps: int


def fit(
    objective: Objective,
    batches: grain.MapDataset,
    config: TrainConfig,
    folder: Path,
    *,
    seed: int,
    validate: Callable[[dict], dict] | None = None,
    budget: float | None = None,
) -> Fitted:
    """Trains from the newest checkpoint in `folder`, or from the start, to `config.steps`.

    Args:
        batches: element i is the batch of step i, a dict of arrays: a pure function of i, so that
            a resumed run sees what the undisturbed one sees.
        validate: params -> metrics, called every `valid_every` steps and at the end.
        budget: seconds for this run, compiling included. A machine too slow for `steps` in them
            makes fewer: as many as its latest rate affords, but a tenth at least, looked at now
            and then in the first half of the run and kept in `plan.json`, which a resumed run
            follows.

    Raises:
        UserError: if the loss is not finite, or the folder belongs to another run.
    """
    folder.mkdir(parents=True, exist_ok=True)
    plan = _Plan.open(folder, config, seed)
    checkpoints = Checkpoints(folder / "checkpoints")
    init_key, step_key = jax.random.split(jax.random.key(seed))
    optimizer = make_optimizer(config.optimizer)
    make_state = partial(_initial_state, objective.init, optimizer, bool(config.ema))
    start = checkpoints.latest or 0
    if start:
        state = checkpoints.restore(start, jax.eval_shape(make_state, init_key))
    else:
        state = jax.jit(make_state)(init_key)
    step_fn = jax.jit(partial(train_step, objective.loss, optimizer, config), donate_argnums=0)
    kept = "ema" if config.ema else "params"  # what is validated and returned
    curve = _Curve(folder / "curve.csv", start)
    reading = grain.ReadOptions(num_threads=2, prefetch_buffer_size=8)
    feed = iter(batches[start : plan.steps].to_iter_dataset(reading)) if start < plan.steps else ()
    pending: list[tuple[int, dict]] = []
    pace = _Pace(plan, budget, start)
    try:
        with bar(f"train {objective.name}", plan.steps, "steps", done=start) as progress:
            step = start
            while step < plan.steps:
                state, metrics = step_fn(state, next(feed), step_key, plan.steps)
                step += 1
                progress.advance()
                pending.append((step, metrics))
                if pace.looks(step):
                    jax.block_until_ready(state)
                    progress.total = pace.look(step)
                last = step == plan.steps
                saving = last or step % config.save_every == 0
                validating = validate and (last or step % config.valid_every == 0)
                # A saved step ends its row, so that a resumed run writes the same rows.
                if saving or validating or step % config.log_every == 0:
                    row = _mean_row(objective.name, pending)
                    pending = []
                    if validating:
                        found = validate(state[kept])
                        row |= {f"valid_{k}": float(v) for k, v in found.items()}
                    curve.write(row)
                    progress.advance(0, **{k: v for k, v in row.items() if k != "step"})
                if saving:
                    checkpoints.save(step, state)
    finally:
        checkpoints.close()
    return Fitted(state[kept], curve.rows, plan.steps)


def train_step(
    loss_fn: Callable,
    optimizer: optax.GradientTransformation,
    config: TrainConfig,
    state: dict,
    batch: dict,
    key: jax.Array,
    steps: jax.Array,
) -> tuple[dict, dict]:
    """One update; a step whose loss or gradient is not finite changes nothing but the count.

    Args:
        key: the run's key; the step's own is derived from it and the step's number.
        steps: the run's length, which the learning rate's schedule spans.
    """
    step = state["step"]
    rate = learning_rate(config.optimizer, step / steps)
    grad_fn = jax.value_and_grad(loss_fn, has_aux=True)
    (loss, metrics), grads = grad_fn(state["params"], batch, jax.random.fold_in(key, step))
    norm = optax.tree.norm(grads)
    updates, opt = optimizer.update(grads, state["opt"], state["params"])
    params = jax.tree.map(lambda p, u: p + rate * u, state["params"], updates)
    new = {"params": params, "opt": opt}
    if config.ema:
        mix = lambda e, p: config.ema * e + (1 - config.ema) * p  # noqa: E731
        new["ema"] = jax.tree.map(mix, state["ema"], params)
    good = jnp.isfinite(loss) & jnp.isfinite(norm)
    old = {name: state[name] for name in new}
    state = jax.tree.map(partial(jnp.where, good), new, old) | {"step": step + 1}
    return state, metrics | {"loss": loss, "grad_norm": norm, "rate": rate, "skipped": 1.0 - good}


def _initial_state(
    init: Callable, optimizer: optax.GradientTransformation, ema: bool, key: jax.Array
) -> dict:
    params = init(key)
    state = {"step": jnp.zeros((), jnp.int32), "params": params, "opt": optimizer.init(params)}
    return state | ({"ema": params} if ema else {})


def _mean_row(name: str, pending: list[tuple[int, dict]]) -> dict:
    """Means of the metrics since the last row; every step having been skipped ends the run."""
    fetched = jax.device_get([metrics for _, metrics in pending])
    kept = [m for m in fetched if not m["skipped"]]
    if not kept:
        step = pending[-1][0]
        raise UserError(
            f"training {name}: the loss is not finite since step {pending[0][0]} (now {step}); "
            "lower train.optimizer.peak"
        )
    row = {key: float(sum(m[key] for m in kept) / len(kept)) for key in kept[0]}
    row["skipped"] = float(len(fetched) - len(kept))
    return {"step": pending[-1][0]} | row


class _Plan:
    """The run's length, fixed once: configured, or what a time budget affords on this machine."""

    def __init__(self, path: Path, values: dict):
        self.path, self.values = path, values

    @classmethod
    def open(cls, folder: Path, config: TrainConfig, seed: int) -> "_Plan":
        path = folder / "plan.json"
        wanted = {"config": config_hash(config), "seed": seed}
        if path.is_file():
            try:
                values = json.loads(path.read_text())
            except ValueError:
                values = {}  # a broken plan is nobody's
            if {k: values.get(k) for k in wanted} != wanted:
                raise UserError(
                    f"{folder}: holds a run with other settings or seed; give another folder"
                )
            return cls(path, values)
        plan = cls(path, wanted | {"steps": config.steps, "decided": False})
        plan._write()
        return plan

    @property
    def steps(self) -> int:
        return self.values["steps"]

    @property
    def decided(self) -> bool:
        return self.values["decided"]

    def decide(self, steps: int) -> None:
        self.values |= {"steps": steps, "decided": True}
        self._write()

    def _write(self) -> None:
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text(json.dumps(self.values))
        os.replace(temporary, self.path)


class _Pace:
    """Keeps a run within its seconds: looks at the rate, rarely, and shortens the plan."""

    def __init__(self, plan: _Plan, budget: float | None, start: int):
        self.plan, self.budget, self.start = plan, budget, start
        self.wanted = plan.steps
        self.began = self.before = time.monotonic()
        self.window = WARM_STEPS
        self.next = start + WARM_STEPS if budget and not plan.decided else None

    def looks(self, step: int) -> bool:
        return step == self.next

    def look(self, step: int) -> int:
        """The run's length, by the rate since the last look; the first look only starts a clock."""
        now = time.monotonic()
        if step > self.start + WARM_STEPS:
            left = max(self.budget - (now - self.began), 0.0)
            affordable = step + int(left * self.window / max(now - self.before, 1e-9))
            steps = min(self.wanted, max(affordable, self.wanted // 10))
            if steps != self.plan.steps:
                log(f"time for {steps} of {self.wanted} steps on this machine")
            self.plan.decide(steps)
            self.window *= 2
        self.before = now
        self.next = step + self.window if 2 * (step + self.window) <= self.plan.steps else None
        if step == self.start + WARM_STEPS:
            self.next = step + self.window
        return self.plan.steps


class _Curve:
    """`curve.csv`: a row a logged step; rows past the resumed step are dropped."""

    def __init__(self, path: Path, start: int):
        self.path = path
        self.rows = [row for row in read_curve(path) if row["step"] <= start]

    def write(self, row: dict) -> None:
        self.rows.append(row)
        names = list(dict.fromkeys(name for row in self.rows for name in row))
        temporary = self.path.with_suffix(".tmp")
        with temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            writer.writerows(self.rows)
        os.replace(temporary, self.path)


def read_curve(path: Path) -> list[dict]:
    """Rows of a run's `curve.csv`, numbers as floats, absent cells left out."""
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        rows = [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(file)]
    return [row | {"step": int(row["step"])} for row in rows]
