"""What the paper's search costs on a pod: the decoding loop, compiled for chips that are not there.

The setting is that of `BeamConfig`: 16 beams x 16 samples, steps of 25 codes, the first 2 s led by
rewards, then every candidate to its end. Codec and verifiers are not in it.
"""

import math
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from llasa_jax import nn
from llasa_jax.config import BeamConfig, DecoderRun, SamplerConfig
from llasa_jax.console import log
from llasa_jax.lm.model import Decoder
from llasa_jax.lm.vocabulary import TAGS
from llasa_jax.parallel.aot import Topology, compile_program
from llasa_jax.parallel.flops import product_flops
from llasa_jax.parallel.hlo import Module
from llasa_jax.parallel.mesh import Rules, make_mesh, on_mesh, sharding
from llasa_jax.parallel.roofline import step_seconds
from llasa_jax.recipes.plan_step import table_head
from llasa_jax.search import cache, decoding
from llasa_jax.search.sampler import prepared

CODES_A_SECOND = 50
SECONDS = 10.0  # of the utterance
PROMPT = 512  # tokens: template, text, and 5 s of a voice before it


def compile_decode(run: DecoderRun, pod: Topology) -> dict[str, Any]:
    """What the compiler says of the loop at the end of an utterance, when the caches are largest.

    Heads lie over tensor, as many devices as divide them; the others take an utterance each.

    Returns:
        `fits`, `bytes` of a device, `compile_s`, `mesh`, `utterances` at once; `model_flops` of a
        step of all; `estimated`: least and most seconds of a step (`step_s`), None if it does not
        fit; `utterance_s`: of an utterance's steps and its forks, on these chips, the others at the
        same time; None as `estimated`.
    """
    beam, config, devices = BeamConfig(), SamplerConfig(), len(pod.devices)
    tensor = math.gcd(run.lm.kv_heads, devices)
    mesh = make_mesh(data=devices // tensor, fsdp=1, tensor=tensor, devices=pod.devices)
    lm = replace(run.lm, scan_layers=False, remat="none", attention="reference")
    shape = (devices // tensor, beam.width)
    work = f"{shape[0]} x {beam.beams} beams x {beam.samples} samples of {SECONDS:g} s, "
    work += f"{PROMPT} tokens before them, {lm.compute_dtype}"
    log(f"compiling {work}, for {pod.slices} x {pod.name}")

    graphdef, params = _abstract_model(lm, mesh)
    length = math.ceil(SECONDS * CODES_A_SECOND)
    first = 1 << (length - 1).bit_length()
    state = jax.eval_shape(cache.empty(None, lm, config, shape, PROMPT, first))
    rows, slots = jax.tree.map(_placed, state, cache.places(state, mesh))
    everywhere = NamedSharding(mesh, PartitionSpec())
    number = partial(jax.ShapeDtypeStruct, dtype=jnp.int32, sharding=everywhere)
    silent = jax.ShapeDtypeStruct((lm.codes,), bool, sharding=everywhere)
    limits = decoding.Limits(number(shape[:1]), *[number(())] * 4, silent)
    with on_mesh(mesh):
        traced = decoding.decode.trace(
            params,
            rows,
            slots,
            limits,
            graphdef=graphdef,
            config=config,
            first_code=lm.text_vocab + len(TAGS),
            end=lm.text_vocab + TAGS.index("<|SPEECH_GENERATION_END|>"),
        )
        flops = product_flops(traced.jaxpr.jaxpr)
        compiled = compile_program(traced)
    hbm = pod.chip.hbm // pod.chip.devices
    found: dict[str, Any] = {
        "work": work,
        "chips": pod.chips,
        "mesh": {name: size for name, size in mesh.shape.items() if size > 1},
        "utterances": shape[0],
        **compiled.report(hbm),
        "model_flops": flops,
        "estimated": None,
        "utterance_s": None,
    }
    if compiled.temporaries is None:
        return found
    module = Module.parse(compiled.text)
    # A loop without a known number of turns is read as one of some turns: those of the step.
    biggest = max(
        module.times, key=lambda name: len(module.computations[name]) * (name in module.looped)
    )
    turns = module.times[biggest]
    totals = step_seconds(pod.chip, turns * flops / devices, module.traffic(), module.collectives())
    step = [seconds / turns for seconds in totals]
    caches = jax.tree.leaves((slots.recent, slots.blocks))
    size = sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in caches)
    forks = math.ceil(beam.prefix_seconds * CODES_A_SECOND / beam.step_codes)
    fork = 2 * forks * size * pod.chip.devices / pod.chip.hbm_rate
    return found | {
        "estimated": {"step_s": step},
        "utterance_s": [length * seconds + fork for seconds in step],
    }


def _abstract_model(lm: Any, mesh: Mesh) -> tuple[Any, dict]:
    """The decoder as the sampler holds it, laid over the mesh."""
    graphdef, params = nn.abstract(lambda rngs: Decoder(lm, rngs=rngs))
    axes = nn.logical_axes(graphdef, params)
    found: list[Any] = []

    def prepare(params: dict) -> dict:
        graphdef, params_apart = prepared(lm, params)
        found.append(graphdef)
        return params_apart

    apart = jax.eval_shape(prepare, params)

    def lay(names: tuple, leaf: Any) -> Any:
        if isinstance(leaf, tuple):
            return tuple(lay(names[1:], one) for one in leaf)
        where = sharding(mesh, Rules(), names, leaf.shape, "decoder")
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where)

    laid = jax.tree.map(lay, axes, apart, is_leaf=lambda node: isinstance(node, tuple))
    return found[0], laid


def _placed(leaf: jax.ShapeDtypeStruct, where: NamedSharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where)


def decode_table(found: dict[str, Any]) -> str:
    """What `compile_decode` found, to read."""
    lines = table_head(found, "search") | {"model FLOPs": f"{found['model_flops']:.3e}"}
    if found["estimated"]:
        least, most = found["estimated"]["step_s"]
        lines["a step"] = f"{1e3 * least:.2f} to {1e3 * most:.2f} ms, estimated"
        least, most = found["utterance_s"]
        lines["an utterance"] = f"{least:.2f} to {most:.2f} s of decoding and forks, estimated"
    return "\n".join(f"{name:<20}{text}" for name, text in lines.items())
