"""What a run minimises, its state, and the step that changes it: all pure functions.

A step is a pure function of (state, frozen, batch, key, steps). The state is {"step", "model",
"rival", "spikes", "ema"}, the last three where there are such: "model" and "rival" hold what an
optimizer trains, {"params", "opt"}, "spikes" what `spikes` remembers. One description of it,
`abstract_state`, gives its first values their places on the mesh, a checkpoint its template and the
compile room its arguments.
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from llasa_jax.config import MeshConfig, OptimizerConfig, TrainConfig
from llasa_jax.errors import UserError
from llasa_jax.parallel.distributed import lay
from llasa_jax.parallel.mesh import Rules, make_mesh, on_mesh, sharding, shardings
from llasa_jax.training.meter import Work
from llasa_jax.training.optimizers import learning_rate, make_optimizer
from llasa_jax.training.spikes import empty_window, judge


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
            `frozen`, of the rival and, in training, `scheduled`, side by side.
        axes: logical axes of the parameters, frozen ones too (`nn.logical_axes`); without them each
            parameter is whole on every device.
        rows: logical axes of a batch's arrays, which are whole along the rest.
        frozen: parameters that are not trained; their shapes are enough to compile a step.
        scheduled: share of the run that is done -> what the loss takes that depends on it.
        rival: who learns to make the loss larger.
        working: parameters -> those that the loss computes with, some in a smaller dtype. Gradients
            are taken of these: half of the memory until the optimizer has them, and nothing lost,
            for a product's gradient comes in the product's dtype.
        weight: how much a part of a batch counts beside the others, where its loss is a mean over
            something that parts have more or less of.
        begin: parameters to begin with instead of those of the same names of `init`, host arrays.
        work: what this process's rows of a batch are, for the rates in the curve.
        about: the run's whole configuration, for its checkpoints.
    """

    name: str
    init: Callable[[jax.Array], dict]
    loss: Callable[[dict, dict, jax.Array], tuple[jax.Array, dict]]
    axes: dict | None = None
    rows: tuple[str, ...] = ("batch",)
    frozen: dict = field(default_factory=dict)
    scheduled: Callable[[jax.Array], dict] = lambda progress: {}
    rival: Rival | None = None
    working: Callable[[dict], dict] = lambda params: params
    weight: Callable[[dict], jax.Array] = lambda batch: jnp.ones(())
    begin: dict | None = None
    work: Callable[[dict], Work] | None = None
    about: dict = field(default_factory=dict)


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


def first_state(objective: Objective, config: TrainConfig, template: dict, key: jax.Array) -> dict:
    """The state before the first step, at its places."""
    make, given = partial(initial_state, objective, config), None
    if objective.begin is not None:
        where = places(template["model"]["params"])
        given = lay(objective.begin, {name: where[name] for name in objective.begin})
    return jax.jit(make, out_shardings=places(template), donate_argnums=1)(key, given)


def initial_state(
    objective: Objective, config: TrainConfig, key: jax.Array, given: dict | None = None
) -> dict:
    """The state before the first step, with parameters of `key` but for those `given`."""
    params = objective.init(key) | (given or {})
    opt = make_optimizer(config.optimizer).init(params)
    state = {"step": jnp.zeros((), jnp.int32), "model": {"params": params, "opt": opt}}
    if objective.rival is not None:
        params = objective.rival.init(jax.random.fold_in(key, 1))
        opt = make_optimizer(objective.rival.optimizer).init(params)
        state["rival"] = {"params": params, "opt": opt}
    if config.spike_sigmas:
        state["spikes"] = empty_window(config.spike_window)
    return state | ({"ema": state["model"]["params"]} if config.ema else {})


def abstract_state(objective: Objective, config: TrainConfig, mesh: Mesh) -> tuple[dict, dict]:
    """State and frozen parameters as `jax.ShapeDtypeStruct`s with their places on the mesh.

    What an optimizer holds for a parameter lies where the parameter lies.

    Raises:
        UserError: if a parameter does not divide over the mesh.
    """

    def placed(params: dict, axes: dict | None) -> dict:
        if axes is None:
            return jax.tree.map(lambda leaf: _shaped(leaf, everywhere(mesh)), params)
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
            return _shaped(leaf, param.sharding if same else everywhere(mesh))

        opt = jax.tree_util.tree_map_with_path(beside, part["opt"])
        return {"params": params, "opt": opt}

    key, rival = jax.eval_shape(lambda: jax.random.key(0)), objective.rival
    shapes = jax.eval_shape(partial(initial_state, objective, config), key)
    alone = {name: shapes[name] for name in ("step", "spikes") if name in shapes}
    state = placed(alone, None)
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
    where = places(abstract_state(objective, config, mesh)[0])

    def step(state: dict, *given: Any) -> tuple[dict, dict]:
        with on_mesh(mesh):
            new, metrics = train_step(objective, config, state, *given)
        return jax.lax.with_sharding_constraint(new, {name: where[name] for name in new}), metrics

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
    """One update; a step that is a spike, or is not finite, changes nothing but the count.

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
        given = frozen | others | objective.scheduled(step / steps)
        return objective.loss(params["model"] | given, batch, key)

    def working(params: dict) -> dict:
        return params | {"model": objective.working(params["model"])}

    params = {name: state[name]["params"] for name in learners}
    key = jax.random.fold_in(key, step)
    (loss, metrics), grads = mean_gradient(
        loss_fn,
        params,
        batch,
        key,
        config.accumulate,
        working=working,
        weight=objective.weight,
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
    always = {"step": step + 1}
    if config.spike_sigmas:
        norm = metrics["grad_norm"]
        spike, always["spikes"] = judge(state["spikes"], loss, norm, config.spike_sigmas)
        good &= ~spike
        metrics |= {"spiked": 1.0 * spike}
    old = {name: state[name] for name in new}
    new = jax.tree.map(partial(jnp.where, good), new, old)
    return new | always, metrics | {"skipped": 1.0 - good}


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
    weight: Callable[[dict], jax.Array] = lambda batch: jnp.ones(()),
) -> tuple[tuple[jax.Array, dict], dict]:
    """((loss, metrics), gradient) of the batch, taken in equal parts of its rows one at a time.

    Of several parts each counts by its share of the batch's `weight`: a loss that is a mean over
    so much comes out as that of the whole batch at once, and so does its gradient.
    """
    grad_fn = gradient_of(loss_fn, working)
    if parts == 1:
        return grad_fn(params, batch, key)
    # A part takes its rows from all over the batch, so that each device divides what it has.
    batch = jax.tree.map(lambda x: x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1), batch)
    weights = jax.lax.map(weight, batch)
    shares = weights / jnp.maximum(weights.sum(), 1e-9)

    def add(total: Any, part: tuple[jax.Array, jax.Array, dict]) -> tuple[Any, None]:
        number, share, rows = part
        found = grad_fn(params, rows, jax.random.fold_in(key, number))
        return jax.tree.map(lambda t, x: t + share * x, total, found), None

    rows = jax.tree.map(lambda x: x[0], batch)
    shapes = jax.eval_shape(grad_fn, params, rows, key)
    nothing = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    return jax.lax.scan(add, nothing, (jnp.arange(parts), shares, batch))[0]


def everywhere(mesh: Mesh) -> NamedSharding:
    """A copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def _shaped(leaf: Any, where: NamedSharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where)


def places(template: dict) -> dict:
    """The shardings in a tree of abstract arrays."""
    return jax.tree.map(lambda leaf: leaf.sharding, template)


def kept(state: dict) -> dict:
    """What is validated and returned: the mean of the parameters, where there is one."""
    return state.get("ema", state["model"]["params"])
