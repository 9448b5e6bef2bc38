"""`llasa plan`: a training step compiled for TPUs that are not there.

What the compiler says (bytes, collectives, whether it fits) holds exactly for its version; what
follows from the chips' ceilings (seconds, MFU) is an estimate. Nothing runs.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from llasa_jax.config import CodecRun, DecoderRun, MeshConfig, TrainConfig, load_config
from llasa_jax.console import log
from llasa_jax.errors import UserError
from llasa_jax.parallel.aot import compile_program, toolchain, topology
from llasa_jax.parallel.flops import TRAIN, decoder_flops, product_flops
from llasa_jax.parallel.hlo import Collective, Module
from llasa_jax.parallel.mesh import make_mesh
from llasa_jax.parallel.roofline import step_seconds
from llasa_jax.training.codec import codec_objective
from llasa_jax.training.language import language_objective
from llasa_jax.training.loop import Objective, abstract_state, batch_sharding, make_step


@dataclass(frozen=True)
class Program:
    """What to compile: a run's objective, its batch ({name: (shape, dtype)}), its model FLOPs.

    `work` says in words what a step processes. FLOPs are None where no formula is written: those of
    the program's own products count then.
    """

    objective: Objective
    batch: dict[str, tuple[tuple[int, ...], Any]]
    work: str
    flops: float | None


def plan(
    config: str,
    program: str,
    where: str,
    *,
    slices: int = 1,
    batch_tokens: int | None = None,
    assignments: Sequence[str] = (),
) -> dict:
    """Compiles the training step of a named configuration for the topology `where`.

    The mesh is the configuration's `train.mesh`; of one for a single device, slices lie along data
    and the devices of a slice along fsdp.

    Args:
        program: "codec" or "train" (the language model).
        where: as "v5p:4x4x4".
        slices: of that shape, joined by the data-center network.
        batch_tokens: of a step, on all chips together (a codec's codes); default: configured.
        assignments: `--set` overrides.

    Returns:
        JSON-able. `bytes` are those of a device, a whole chip but on TPU7x; `collectives` by kind:
        instructions, bytes of their results, how many of them stand in a loop; `estimated`: least
        and most of `roofline.step_seconds`, and the model FLOPs' share of the chips' peak in them.

    Raises:
        UserError: if the topology is unknown, libtpu is missing, the configuration does not divide
            over the mesh, or the compiler refuses the program.
    """
    kind, describe = PROGRAMS[program]
    run = load_config(config, kind, list(assignments))
    pod = topology(where, slices)
    if run.train.mesh == MeshConfig():
        train = replace(run.train, mesh=MeshConfig(data=slices, fsdp=-1))
        run = replace(run, train=train)
    mesh = make_mesh(**asdict(run.train.mesh), devices=pod.devices)
    made = describe(run, batch_tokens)
    log(f"compiling {made.work}, for {slices} x {where}")
    step = make_step(made.objective, run.train, mesh)
    traced = jax.jit(step, donate_argnums=0).trace(*_arguments(made, run.train, mesh))
    flops = product_flops(traced.jaxpr.jaxpr)
    model_flops = made.flops or flops
    compiled = compile_program(traced)
    hbm = pod.chip.hbm // pod.chip.devices
    words = ["llasa plan", config, "--program", program, "--topology", where]
    words += ["--slices", str(slices)] if slices > 1 else []
    words += ["--batch-tokens", str(batch_tokens)] if batch_tokens else []
    words += [f"--set {assignment}" for assignment in assignments]
    found: dict[str, Any] = {
        "command": " ".join(words),
        "mesh": {name: size for name, size in mesh.shape.items() if size > 1},
        "work": made.work,
        "chips": pod.chips,
        "toolchain": toolchain(),
        "fits": compiled.temporaries is not None and compiled.peak <= hbm,
        "bytes": {
            "arguments": compiled.arguments,
            "temporaries": compiled.temporaries,
            "peak": compiled.peak,
            "hbm": hbm,
        },
        "compile_s": round(compiled.seconds, 1),
        "model_flops": model_flops,
    }
    if compiled.temporaries is None:
        return found
    module = Module.parse(compiled.text)
    collectives = module.collectives()
    seconds = step_seconds(pod.chip, flops / mesh.size, module.traffic(), collectives)
    share = model_flops / (pod.chips * pod.chip.flops)
    return found | {
        "collectives": _by_kind(collectives),
        "estimated": {"step_s": list(seconds), "mfu": [share / s for s in reversed(seconds)]},
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


def codec_program(run: CodecRun, batch_tokens: int | None) -> Program:
    """`llasa codec train`'s step, discriminators included: crops of `run.crop_seconds`."""
    samples = round(run.crop_seconds * run.codec.sample_rate)
    clips = _items(batch_tokens, samples // run.codec.hop, run.train.batch)
    work = f"{clips} clips of {run.crop_seconds:g} s, {run.codec.compute_dtype}"
    batch = {"wave": ((clips, samples), jnp.float32)}
    return Program(codec_objective(run), batch, work, None)


def language_program(run: DecoderRun, batch_tokens: int | None) -> Program:
    """`llasa train`'s step: packed rows of `run.row` tokens."""
    rows = _items(batch_tokens, run.row, run.train.batch)
    names = ("tokens", "targets", "positions", "segments")
    batch = {name: ((rows, run.row), jnp.int32) for name in names}
    batch["weights"] = ((rows, run.row), jnp.float32)
    work = f"{rows} rows of {run.row} tokens, {run.lm.compute_dtype}, remat {run.lm.remat}"
    flops = TRAIN * decoder_flops(run.lm, rows * run.row, run.row)
    return Program(language_objective(run, (run.lm.codes,)), batch, work, flops)


PROGRAMS = {"codec": (CodecRun, codec_program), "train": (DecoderRun, language_program)}


def _items(tokens: int | None, each: int, configured: int) -> int:
    """Items of a step."""
    if tokens is None:
        return configured
    if tokens < each or tokens % each:
        raise UserError(f"--batch-tokens {tokens}: no multiple of the {each} of an item")
    return tokens // each


def table(found: dict) -> str:
    """The plan as text."""
    sizes, units = found["bytes"], 1e9
    lines = {
        "command": found["command"],
        "toolchain": ", ".join(f"{name} {number}" for name, number in found["toolchain"].items()),
        "step": found["work"],
        "mesh": ", ".join(f"{name}={size}" for name, size in found["mesh"].items()) or "one device",
        "chips": str(found["chips"]),
        "fits": f"{'yes' if found['fits'] else 'no'}: {sizes['peak'] / units:.2f} of "
        f"{sizes['hbm'] / units:.2f} GB a device, {sizes['peak'] / sizes['hbm']:.0%}, compiled",
    }
    for name in ("arguments", "temporaries"):
        if sizes[name] is not None:
            lines[name] = f"{sizes[name] / units:.2f} GB, compiled"
    lines["model FLOPs"] = f"{found['model_flops']:.3e}"
    for kind, of in found.get("collectives", {}).items():
        lines[kind] = (
            f"{of['count']}, {of['bytes'] / units:.3f} GB, {of['in_loop']} in a loop, compiled"
        )
    if "estimated" in found:
        step, mfu = found["estimated"]["step_s"], found["estimated"]["mfu"]
        lines["time"] = f"{step[0]:.3f} to {step[1]:.3f} s, estimated"
        lines["MFU"] = f"{100 * mfu[0]:.1f} to {100 * mfu[1]:.1f} %, estimated"
    return "\n".join(f"{name:<20}{text}" for name, text in lines.items())
