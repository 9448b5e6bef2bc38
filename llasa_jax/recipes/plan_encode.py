"""How fast a pod encodes speech: the codec's encoder, compiled for chips that are not there."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from llasa_jax import nn
from llasa_jax.codec.batch import ROWS
from llasa_jax.codec.model import Codec
from llasa_jax.config import CodecRun
from llasa_jax.console import log
from llasa_jax.errors import UserError
from llasa_jax.parallel.aot import Topology, compile_program
from llasa_jax.parallel.flops import product_flops
from llasa_jax.parallel.hlo import Module
from llasa_jax.parallel.mesh import make_mesh
from llasa_jax.parallel.roofline import step_seconds
from llasa_jax.recipes.plan_step import table_head

SECONDS = 10.0  # of a wave


def compile_encode(run: CodecRun, pod: Topology, batch_tokens: int | None) -> dict[str, Any]:
    """What the compiler says of encoding waves of 10 s, spread over the devices of a pod.

    Args:
        batch_tokens: codes at once on all chips; default: as many a device as `data prepare` takes.

    Returns:
        `fits`, `bytes` of a device, `compile_s`, `model_flops` (products) of a batch; `estimated`:
        least and most seconds of a batch (`step_s`) and hours of audio an hour on all chips
        (`audio_hours_an_hour`), None if it does not fit.
    """
    config, devices = run.codec, len(pod.devices)
    frames = round(SECONDS * config.frame_rate)
    waves = (batch_tokens or devices * ROWS) // frames // devices * devices
    if not waves:
        raise UserError(f"--batch-tokens: at least {devices * frames}, a wave for each device")
    mesh = make_mesh(data=devices, devices=pod.devices)
    graphdef, params = nn.abstract(lambda rngs: Codec(config, rngs=rngs))
    whole, rows = (_place(mesh, *axes) for axes in ((), ("data",)))

    def encode(params: dict, wave: jax.Array, mask: jax.Array) -> jax.Array:
        return nn.merge(graphdef, params).encode(wave, mask)

    arguments = (
        jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape, p.dtype, sharding=whole), params),
        jax.ShapeDtypeStruct((waves, frames * config.hop), jnp.float32, sharding=rows),
        jax.ShapeDtypeStruct((waves, frames), jnp.float32, sharding=rows),
    )
    work = f"{waves} waves of {SECONDS:g} s to codes, {config.compute_dtype}"
    log(f"compiling {work}, for {pod.slices} x {pod.name}")
    traced = jax.jit(encode, out_shardings=rows).trace(*arguments)
    flops = product_flops(traced.jaxpr.jaxpr)
    compiled = compile_program(traced)
    hbm = pod.chip.hbm // pod.chip.devices
    found: dict[str, Any] = {
        "work": work,
        "chips": pod.chips,
        **compiled.report(hbm),
        "model_flops": flops,
        "estimated": None,
    }
    if compiled.temporaries is None:
        return found
    module = Module.parse(compiled.text)
    seconds = step_seconds(pod.chip, flops / devices, module.traffic(), module.collectives())
    rate = [waves * SECONDS / s for s in reversed(seconds)]
    return found | {"estimated": {"step_s": list(seconds), "audio_hours_an_hour": rate}}


def _place(mesh: Mesh, *axes: str) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec(*axes))


def encode_table(found: dict[str, Any]) -> str:
    """What `compile_encode` found, to read."""
    lines = table_head(found, "batch") | {"model FLOPs": f"{found['model_flops']:.3e}"}
    if found["estimated"]:
        least, most = found["estimated"]["audio_hours_an_hour"]
        lines["speed"] = f"{least:.3g} to {most:.3g} hours of audio an hour, estimated"
        lines["100,000 hours"] = f"{1e5 / most:.3g} to {1e5 / least:.3g} hours, estimated"
    return "\n".join(f"{name:<20}{text}" for name, text in lines.items())
