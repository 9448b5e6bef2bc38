"""The training loop, one for codec, language model and recognisers; it reads top to bottom.

A step is a pure function of (state, frozen, batch, key, steps). The state is {"step", "model",
"rival", "ema"}, the last two where there are such: "model" and "rival" hold what an optimizer
trains, {"params", "opt"}. One description of it, `abstract_state`, gives its first values their
places on the mesh, a checkpoint its template and the compile room its arguments.
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from llasa_jax.config import MeshConfig, OptimizerConfig, TrainConfig
from llasa_jax.console import bar
from llasa_jax.errors import UserError
from llasa_jax.parallel.mesh import Rules, make_mesh, on_mesh, sharding, shardings
from llasa_jax.training.checkpoints import Checkpoints
from llasa_jax.training.optimizers import learning_rate, make_optimizer
from llasa_jax.training.record import Curve, Pace, Plan


@dataclass(frozen=True)
class Rival:
    """Adversaries of the model, which are among the loss's parameters by their `name`.

    They have an optimizer of their own and learn from the share `start` of the run on. Before it
    the loss is called without them, and they cost nothing.
    """

    name: str
    init: Callable[[jax.Array], dict]
    axes: dict
    optimizer: OptimizerConfig
    start: float = 0.0


@dataclass(frozen=True)
class Objective:
    """What a run minimises.

    Attributes:
        init: key -> parameters, a nested dict.
        loss: (parameters, batch, key) -> (loss, metrics). The parameters are those of `init`, of
            `frozen` and of the rival, side by side.
        axes: logical axes of the parameters, frozen ones too (`nn.logical_axes`); without them each
            parameter is whole on every device.
        rows: logical axes of a batch's arrays, which are whole along the rest.
        frozen: parameters that are not trained; their shapes are enough to compile a step.
        rival: who learns to make the loss larger.
        working: parameters -> those that the loss computes with, some in a smaller dtype. Gradients
            are taken of these: half of the memory until the optimizer has them, and nothing lost,
            for a product's gradient comes in the product's dtype.
    """

    name: str
    init: Callable[[jax.Array], dict]
    loss: Callable[[dict, dict, jax.Array], tuple[jax.Array, dict]]
    axes: dict | None = None
    rows: tuple[str, ...] = ("batch",)
    frozen: dict = field(default_factory=dict)
    rival: Rival | None = None
    working: Callable[[dict], dict] = lambda params: params


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
    validate: Callable[[dict, int], dict] | None = None,
    budget: float | None = None,
) -> Fitted:
    """Trains from the newest checkpoint in `folder`, or from the start, to `config.steps`.

    Args:
        batches: element i is this process's rows of step i's batch, a dict of arrays: a pure
            function of i, so that a resumed run sees what the undisturbed one sees.
        validate: (params, step) -> metrics, called every `valid_every` steps and at the end.
        budget: seconds for this run, compiling included. A machine too slow for `steps` in them
            makes fewer: as many as its latest rate affords, but a tenth at least, looked at now
            and then in the first half of the run and kept in `plan.json`, which a resumed run
            follows. It does not foresee that a rival makes later steps slower.

    Raises:
        UserError: if the loss is not finite, the folder belongs to another run, or the devices are
            not those of `config.mesh`.
    """
    mesh = training_mesh(config.mesh)
    if budget is not None and jax.process_count() > 1:
        raise UserError("training: a time budget is for one process; set train.steps")
    folder.mkdir(parents=True, exist_ok=True)
    plan = Plan.open(folder, config, seed)
    checkpoints = Checkpoints(folder / "checkpoints")
    init_key, step_key = jax.random.split(jax.random.key(seed))
    template, frozen_template = abstract_state(objective, config, mesh)
    frozen = jax.device_put(objective.frozen, _places(frozen_template))
    start = checkpoints.latest or 0
    if start:
        state = checkpoints.restore(start, template)
    else:
        make_state = partial(initial_state, objective, config)
        state = jax.jit(make_state, out_shardings=_places(template))(init_key)
    step_fn = jax.jit(make_step(objective, config, mesh), donate_argnums=0)
    curve = Curve(folder / "curve.csv", start)
    reading = grain.ReadOptions(num_threads=2, prefetch_buffer_size=8)
    feed = iter(batches[start : plan.steps].to_iter_dataset(reading)) if start < plan.steps else ()
    pending: list[tuple[int, dict]] = []
    pace = Pace(plan, budget, start)
    try:
        with bar(f"train {objective.name}", plan.steps, "steps", done=start) as progress:
            step = start
            while step < plan.steps:
                batch = place_batch(objective, mesh, next(feed))
                learners = learning(objective, state, step / plan.steps)
                learners, metrics = step_fn(learners, frozen, batch, step_key, plan.steps)
                state |= learners
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
                        with jax.set_mesh(mesh):
                            found = validate(_kept(state), step)
                        row |= {f"valid_{k}": float(v) for k, v in found.items()}
                    curve.write(row)
                    progress.advance(0, **{k: v for k, v in row.items() if k != "step"})
                if saving:
                    checkpoints.save(step, state)
    finally:
        checkpoints.close()
    return Fitted(_kept(state), curve.rows, plan.steps)


def training_mesh(config: MeshConfig) -> Mesh:
    """The mesh of a run: of the first devices if it asks for fewer than one process has.

    Raises:
        UserError: as `make_mesh`, or if processes would share rows of the batch.
    """
    sizes = asdict(config)
    wanted, processes = math.prod(sizes.values()), jax.process_count()
    alone = processes == 1 and 0 < wanted <= jax.device_count()
    mesh = make_mesh(**sizes, devices=jax.devices()[:wanted] if alone else None)
    if mesh.shape["data"] * mesh.shape["fsdp"] % processes:
        raise UserError(f"train.mesh: data x fsdp must be a multiple of the {processes} processes")
    return mesh


def initial_state(objective: Objective, config: TrainConfig, key: jax.Array) -> dict:
    """The state before the first step."""
    params = objective.init(key)
    opt = make_optimizer(config.optimizer).init(params)
    state = {"step": jnp.zeros((), jnp.int32), "model": {"params": params, "opt": opt}}
    if objective.rival is not None:
        params = objective.rival.init(jax.random.fold_in(key, 1))
        opt = make_optimizer(objective.rival.optimizer).init(params)
        state["rival"] = {"params": params, "opt": opt}
    return state | ({"ema": state["model"]["params"]} if config.ema else {})


def abstract_state(objective: Objective, config: TrainConfig, mesh: Mesh) -> tuple[dict, dict]:
    """State and frozen parameters as `jax.ShapeDtypeStruct`s with their places on the mesh.

    What an optimizer holds for a parameter lies where the parameter lies.

    Raises:
        UserError: if a parameter does not divide over the mesh.
    """

    def placed(params: dict, axes: dict | None) -> dict:
        if axes is None:
            return jax.tree.map(lambda leaf: _shaped(leaf, _everywhere(mesh)), params)
        axes = {name: axes[name] for name in params}
        return jax.tree.map(_shaped, params, shardings(mesh, Rules(), axes, params))

    def learner(part: dict, axes: dict | None) -> dict:
        params = placed(part["params"], axes)
        known = dict(jax.tree_util.tree_leaves_with_path(params))

        def beside(path: tuple, leaf: Any) -> jax.ShapeDtypeStruct:
            # A moment's path ends with its parameter's.
            ends = (known.get(path[i:]) for i in range(len(path)))
            param = next((found for found in ends if found is not None), None)
            same = param is not None and param.shape == leaf.shape
            return _shaped(leaf, param.sharding if same else _everywhere(mesh))

        opt = jax.tree_util.tree_map_with_path(beside, part["opt"])
        return {"params": params, "opt": opt}

    key, rival = jax.eval_shape(lambda: jax.random.key(0)), objective.rival
    shapes = jax.eval_shape(partial(initial_state, objective, config), key)
    state = {"step": _shaped(shapes["step"], _everywhere(mesh))}
    state["model"] = learner(shapes["model"], objective.axes)
    if rival is not None:
        state["rival"] = learner(shapes["rival"], rival.axes)
    if config.ema:
        state["ema"] = state["model"]["params"]
    return state, placed(objective.frozen, objective.axes)


def place_batch(objective: Objective, mesh: Mesh, batch: dict) -> dict:
    """The whole batch on the mesh, of the rows that each process has.

    Raises:
        UserError: if the rows do not divide over data and fsdp.
    """

    def place(x: np.ndarray) -> jax.Array:
        shape = (x.shape[0] * jax.process_count(), *x.shape[1:]) if x.ndim else ()
        where = batch_sharding(objective, mesh, shape)
        return jax.make_array_from_process_local_data(where, x, shape)

    return jax.tree.map(place, batch)


def batch_sharding(objective: Objective, mesh: Mesh, shape: tuple[int, ...]) -> NamedSharding:
    """Where an array of a batch, of this whole shape, lies."""
    axes = (*objective.rows, *(None,) * len(shape))[: len(shape)]
    return sharding(mesh, Rules(), axes, shape, "batch")


def learning(objective: Objective, state: dict, progress: float) -> dict:
    """The part of the state that learns after the share `progress` of the run."""
    waits = objective.rival is not None and progress < objective.rival.start
    return {name: part for name, part in state.items() if not (waits and name == "rival")}


def make_step(objective: Objective, config: TrainConfig, mesh: Mesh) -> Callable:
    """The pure function (state, frozen, batch, key, steps) -> (state, metrics), to be jitted.

    It takes a whole state or the part that is `learning`, on the mesh as `abstract_state` says, and
    leaves it there.
    """
    places = _places(abstract_state(objective, config, mesh)[0])

    def step(state: dict, *given: Any) -> tuple[dict, dict]:
        with on_mesh(mesh):
            new, metrics = train_step(objective, config, state, *given)
        return jax.lax.with_sharding_constraint(new, {name: places[name] for name in new}), metrics

    return step


def train_step(
    objective: Objective,
    config: TrainConfig,
    state: dict,
    frozen: dict,
    batch: dict,
    key: jax.Array,
    steps: jax.Array,
) -> tuple[dict, dict]:
    """One update; a step whose loss or gradient is not finite changes nothing but the count.

    Args:
        key: the run's key; the step's own is derived from it and the step's number.
        steps: the run's length, which the learning rate's schedule spans.
    """
    step, rival = state["step"], objective.rival
    learners = {"model": (config.optimizer, 0.0, "")}
    if "rival" in state:
        learners["rival"] = (rival.optimizer, rival.start, f"{rival.name}_")

    def loss_fn(params: dict, batch: dict, key: jax.Array) -> tuple[jax.Array, dict]:
        others = {rival.name: params["rival"]} if "rival" in params else {}
        return objective.loss(params["model"] | frozen | others, batch, key)

    def working(params: dict) -> dict:
        return params | {"model": objective.working(params["model"])}

    params = {name: state[name]["params"] for name in learners}
    key = jax.random.fold_in(key, step)
    (loss, metrics), grads = mean_gradient(
        loss_fn, params, batch, key, config.accumulate, working=working
    )
    metrics |= {"loss": loss}
    new, good = {}, jnp.isfinite(loss)
    for name, (rule, start, prefix) in learners.items():
        rate = learning_rate(rule, (step / steps - start) / (1 - start))
        norm = optax.tree.norm(grads[name])
        updates, opt = make_optimizer(rule).update(grads[name], state[name]["opt"], params[name])
        moved = jax.tree.map(lambda p, u, rate=rate: p + rate * u, params[name], updates)
        new[name] = {"params": moved, "opt": opt}
        good &= jnp.isfinite(norm)
        metrics |= {f"{prefix}grad_norm": norm, f"{prefix}rate": rate}
    if config.ema:
        mix = lambda e, p: config.ema * e + (1 - config.ema) * p  # noqa: E731
        new["ema"] = jax.tree.map(mix, state["ema"], new["model"]["params"])
    old = {name: state[name] for name in new}
    new = jax.tree.map(partial(jnp.where, good), new, old)
    return new | {"step": step + 1}, metrics | {"skipped": 1.0 - good}


def gradient_of(loss_fn: Callable, working: Callable[[dict], dict]) -> Callable:
    """(params, *given) -> ((loss, metrics), gradient): of what is `working`, as that of params."""
    grad_fn = jax.value_and_grad(loss_fn, has_aux=True)

    def found(params: dict, *given: Any) -> tuple[tuple[jax.Array, dict], dict]:
        value, grads = grad_fn(working(params), *given)
        return value, jax.tree.map(lambda grad, param: grad.astype(param.dtype), grads, params)

    return found


def mean_gradient(
    loss_fn: Callable,
    params: dict,
    batch: dict,
    key: jax.Array,
    parts: int,
    *,
    working: Callable[[dict], dict] = lambda params: params,
) -> tuple[tuple[jax.Array, dict], dict]:
    """((loss, metrics), gradient), means over `parts` equal parts of the batch, one at a time."""
    grad_fn = gradient_of(loss_fn, working)
    if parts == 1:
        return grad_fn(params, batch, key)
    # A part takes its rows from all over the batch, so that each device divides what it has.
    batch = jax.tree.map(lambda x: x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1), batch)

    def add(total: Any, part: tuple[jax.Array, dict]) -> tuple[Any, None]:
        number, rows = part
        found = grad_fn(params, rows, jax.random.fold_in(key, number))
        return jax.tree.map(jnp.add, total, found), None

    rows = jax.tree.map(lambda x: x[0], batch)
    shapes = jax.eval_shape(grad_fn, params, rows, key)
    nothing = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    total, _ = jax.lax.scan(add, nothing, (jnp.arange(parts), batch))
    return jax.tree.map(lambda leaf: leaf / parts, total)


def _everywhere(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def _shaped(leaf: Any, where: NamedSharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where)


def _places(template: dict) -> dict:
    return jax.tree.map(lambda leaf: leaf.sharding, template)


def _kept(state: dict) -> dict:
    """What is validated and returned; of several processes each has all of it."""
    params = state.get("ema", state["model"]["params"])
    if jax.process_count() == 1:
        return params
    return jax.tree.map(lambda x: multihost_utils.process_allgather(x, tiled=True), params)


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
    names = dict.fromkeys(name for m in kept for name in m)
    had = {name: [m[name] for m in kept if name in m] for name in names}
    row = {name: float(sum(values) / len(values)) for name, values in had.items()}
    row["skipped"] = float(len(fetched) - len(kept))
    return {"step": pending[-1][0]} | row
