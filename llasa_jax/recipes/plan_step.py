"""A run's training step, compiled for a pod: what the compiler says and what follows from it."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from llasa_jax.config import CodecRun, DecoderRun, MeshConfig, TrainConfig
from llasa_jax.console import log
from llasa_jax.errors import UserError
from llasa_jax.lm.released import paper_run
from llasa_jax.parallel.aot import Topology, compile_program
from llasa_jax.parallel.flops import TRAIN, decoder_flops, product_flops
from llasa_jax.parallel.hlo import Collective, Module
from llasa_jax.parallel.mesh import make_mesh
from llasa_jax.parallel.roofline import step_seconds
from llasa_jax.training.codec import codec_objective
from llasa_jax.training.language import language_objective
from llasa_jax.training.step import Objective, abstract_state, batch_sharding, make_step

Run = CodecRun | DecoderRun


@dataclass(frozen=True)
class Program:
    """What to compile: a run's objective, its batch ({name: (shape, dtype)}), its model FLOPs.

    `work` says in words what a step processes, `whole` what `steps` of them are. FLOPs are None
    where no formula is written: those of the program's own products count then. `table` is the
    shape of the vocabulary's table, which should not travel in a loop; None without one.
    """

    objective: Objective
    batch: dict[str, tuple[tuple[int, ...], Any]]
    work: str
    flops: float | None
    steps: float
    whole: str
    table: tuple[int, int] | None = None


def table_head(found: dict[str, Any], what: str) -> dict[str, str]:
    """The first lines of a plan's table by their names; `what` names the work."""
    sizes, fits = found["bytes"], "yes" if found["fits"] else "no"
    lines = {
        "command": found["command"],
        "toolchain": ", ".join(f"{name} {number}" for name, number in found["toolchain"].items()),
        what: found["work"],
    }
    if "mesh" in found:
        axes = ", ".join(f"{name}={size}" for name, size in found["mesh"].items())
        lines["mesh"] = axes or "one device"
    lines |= {
        "chips": str(found["chips"]),
        "fits": f"{fits}: {sizes['peak'] / 1e9:.2f} of {sizes['hbm'] / 1e9:.2f} GB a device, "
        f"{sizes['peak'] / sizes['hbm']:.0%}, compiled",
    }
    for name in ("arguments", "temporaries"):
        if sizes[name] is not None:
            lines[name] = f"{sizes[name] / 1e9:.2f} GB, compiled"
    return lines


def sized(run: Run, batch_tokens: int | None) -> Run:
    """The run with a batch of so many tokens.

    Raises:
        UserError: if they are no whole rows (a codec's: no whole crops).
    """
    if batch_tokens is None:
        return run
    one = run.row if isinstance(run, DecoderRun) else _crop(run) // run.codec.hop
    if batch_tokens < one or batch_tokens % one:
        raise UserError(f"--batch-tokens {batch_tokens}: no multiple of the {one} of an item")
    return replace(run, train=replace(run.train, batch=batch_tokens // one))


def pod_mesh(config: MeshConfig, pod: Topology) -> Mesh:
    """The run's mesh on the pod.

    Raises:
        UserError: as `make_mesh`.
    """
    if config == MeshConfig():
        config = MeshConfig(fsdp=-1)
    if config.data == 1:
        config = replace(config, data=pod.slices)
    return make_mesh(**asdict(config), devices=pod.devices)


def compile_step(run: Run, pod: Topology) -> dict:
    """What the compiler says of a run's training step, and what follows from the chips' ceilings.

    Returns:
        `fits`; `bytes` of a device, a whole chip but on TPU7x; `collectives` by kind: instructions,
        bytes of their results, how many of them stand in a loop; `head_collectives_in_loops`, those
        in a loop that move the vocabulary's table or a device's part (`Collective.moves_table`);
        `estimated`: least and most of `roofline.step_seconds`, and the model FLOPs' share of the
        chips' peak in them; `chip_hours`: least and most of `whole_run`. What only a program that
        fits has is None for one that does not.
    """
    mesh = pod_mesh(run.train.mesh, pod)
    made = codec_program(run) if isinstance(run, CodecRun) else language_program(run)
    log(f"compiling {made.work}, for {pod.slices} x {pod.name}")
    step = make_step(made.objective, run.train, mesh)
    traced = jax.jit(step, donate_argnums=0).trace(*_arguments(made, run.train, mesh))
    flops = product_flops(traced.jaxpr.jaxpr)
    model_flops = made.flops or flops
    compiled = compile_program(traced)
    hbm = pod.chip.hbm // pod.chip.devices
    found: dict[str, Any] = {
        "mesh": {name: size for name, size in mesh.shape.items() if size > 1},
        "work": made.work,
        "chips": pod.chips,
        **compiled.report(hbm),
        "model_flops": model_flops,
        "whole_run": {"steps": made.steps, "of": made.whole},
        "collectives": None,
        "head_collectives_in_loops": None,
        "estimated": None,
        "chip_hours": None,
    }
    if compiled.temporaries is None:
        return found
    module = Module.parse(compiled.text)
    collectives = module.collectives()
    seconds = step_seconds(pod.chip, flops / mesh.size, module.traffic(), collectives)
    share = model_flops / (pod.chips * pod.chip.flops)
    parts = mesh.shape["fsdp"] * mesh.shape["tensor"]
    heads = [
        c for c in collectives if made.table and c.in_loop and c.moves_table(*made.table, parts)
    ]
    return found | {
        "collectives": _by_kind(collectives),
        "head_collectives_in_loops": len(heads),
        "estimated": {"step_s": list(seconds), "mfu": [share / s for s in reversed(seconds)]},
        "chip_hours": [made.steps * s * pod.chips / 3600 for s in seconds],
    }


def _arguments(made: Program, config: TrainConfig, mesh: Mesh) -> tuple:
    """Of the step: abstract arrays, each with its place on the mesh."""
    state, frozen = abstract_state(made.objective, config, mesh)
    batch = {
        name: jax.ShapeDtypeStruct(
            shape, dtype, sharding=batch_sharding(made.objective, mesh, shape)
        )
        for name, (shape, dtype) in made.batch.items()
    }
    everywhere = NamedSharding(mesh, PartitionSpec())
    key = jax.eval_shape(jax.random.key, 0)
    key = jax.ShapeDtypeStruct(key.shape, key.dtype, sharding=everywhere)
    return state, frozen, batch, key, jax.ShapeDtypeStruct((), jnp.int32, sharding=everywhere)


def _by_kind(collectives: Sequence[Collective]) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for one in sorted(collectives, key=lambda one: one.kind):
        kind = found.setdefault(one.kind, {"count": 0, "bytes": 0, "in_loop": 0})
        kind["count"] += 1
        kind["bytes"] += one.bytes
        kind["in_loop"] += one.in_loop
    return found


def _parts(config: TrainConfig) -> str:
    return f", in {config.accumulate} parts" if config.accumulate > 1 else ""


def _crop(run: CodecRun) -> int:
    return round(run.crop_seconds * run.codec.sample_rate)


def codec_program(run: CodecRun) -> Program:
    """`llasa codec train`'s step, discriminators included: crops of `run.crop_seconds`."""
    clips, steps = run.train.batch, run.train.steps
    work = f"{clips} clips of {run.crop_seconds:g} s, {run.codec.compute_dtype}"
    work += _parts(run.train)
    batch = {"wave": ((clips, _crop(run)), jnp.float32)}
    return Program(codec_objective(run), batch, work, None, steps, "the configured steps")


def language_program(run: DecoderRun) -> Program:
    """`llasa train`'s step: packed rows of `run.row` tokens.

    The whole run is the paper's largest, 250,000 hours of speech for three epochs: hours x 3600 x
    50 codes, and text and template as `released.TOKENS_AN_HOUR` assumes, in steps of this batch.
    """
    rows = run.train.batch
    names = ("tokens", "targets", "positions", "segments")
    batch = {name: ((rows, run.row), jnp.int32) for name in names}
    batch["weights"] = ((rows, run.row), jnp.float32)
    work = f"{rows} rows of {run.row} tokens, {run.lm.compute_dtype}, remat {run.lm.remat}"
    work += _parts(run.train)
    flops = TRAIN * decoder_flops(run.lm, rows * run.row, run.row)
    paper = paper_run(run.lm)
    tokens = paper.train.steps * paper.train.batch * paper.row
    whole = f"the paper's 250,000 hours, 3 epochs, {tokens:.3g} tokens"
    objective = language_objective(run, (run.lm.codes,))
    steps, shape = tokens / (rows * run.row), (run.lm.padded_vocab, run.lm.dim)
    return Program(objective, batch, work, flops, steps, whole, shape)


PROGRAMS: dict[str, tuple[type, Callable]] = {
    "codec": (CodecRun, codec_program),
    "train": (DecoderRun, language_program),
}
