"""Run by test_hlo.py in a process of its own: what a program for eight devices says, as JSON."""

import dataclasses
import json

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

jax.config.update("jax_num_cpu_devices", 8)

from llasa_jax.parallel.aot import compile_program  # noqa: E402
from llasa_jax.parallel.hlo import Module  # noqa: E402
from llasa_jax.parallel.mesh import make_mesh  # noqa: E402


def step(weights: jax.Array, x: jax.Array) -> jax.Array:
    def loss(weights: jax.Array) -> jax.Array:
        y, _ = jax.lax.scan(lambda h, w: (jnp.tanh(h @ w), None), x, weights)
        return jnp.mean(y)

    return weights - jax.grad(loss)(weights)


def main():
    mesh = make_mesh()
    place = lambda *axes: NamedSharding(mesh, PartitionSpec(*axes))  # noqa: E731
    weights = jax.ShapeDtypeStruct((3, 16, 16), jnp.float32, sharding=place(None, "fsdp"))
    x = jax.ShapeDtypeStruct((64, 16), jnp.float32, sharding=place("fsdp"))
    compiled = compile_program(jax.jit(step).trace(weights, x))
    module = Module.parse(compiled.text)
    collectives = [dataclasses.asdict(one) for one in module.collectives()]
    found = {"collectives": collectives, "traffic": module.traffic()}
    print(json.dumps(found | {"arguments": compiled.arguments}))


if __name__ == "__main__":
    main()
