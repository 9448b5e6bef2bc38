"""What the TPU compiler makes of the loss and of whole steps; nothing runs."""

import importlib.util
from dataclasses import replace

import jax
import jax.numpy as jnp
import pytest

from llasa_jax.config import MeshConfig
from llasa_jax.lm.loss import chunked_cross_entropy
from llasa_jax.lm.released import LLASA_1B, paper_run
from llasa_jax.parallel.aot import compile_program, topology
from llasa_jax.parallel.hlo import Module
from llasa_jax.parallel.mesh import Rules, make_mesh, on_mesh, sharding
from llasa_jax.recipes.plan_step import compile_step

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("libtpu") is None, reason="needs the extra `plan` (libtpu)"
    ),
    pytest.mark.timeout(600),
]
SMALL = replace(LLASA_1B, dim=256, ffn=256, layers=2, heads=4, kv_heads=2)
SMALL = replace(SMALL, text_vocab=3000, codes=1088)


def compiled_loss(where, rows, length, dim, padded, **how):
    """Value and gradients of the loss, rows over all devices, compiled."""
    mesh = make_mesh(devices=topology(where).devices)

    def shape(dtype, *axes):
        sizes = {"batch": rows * mesh.size, "length": length, "vocab": padded, "embed": dim}
        sizes = tuple(sizes.get(axis, dim) for axis in axes)
        return jax.ShapeDtypeStruct(sizes, dtype, sharding=sharding(mesh, Rules(), axes, sizes))

    def step(hidden, table, targets, weights):
        def loss(hidden, table):
            return chunked_cross_entropy(hidden, table, targets, weights, **how).mean

        with on_mesh(mesh):
            return jax.value_and_grad(loss, (0, 1))(hidden, table)

    arguments = (
        shape(jnp.bfloat16, "batch", "length", None),
        shape(jnp.float32, "vocab", "embed"),
        shape(jnp.int32, "batch", "length"),
        shape(jnp.float32, "batch", "length"),
    )
    return compile_program(jax.jit(step).trace(*arguments))


@pytest.mark.parametrize("neighbours", [1, 2])
def test_no_collective_of_the_heads_size_stands_in_a_loop(neighbours):
    padded, dim = 4096, 256
    how = dict(vocab=4000, chunk=128, neighbours=neighbours)
    program = compiled_loss("v5e:2x2", 1, 1024, dim, padded, **how)
    found = Module.parse(program.text).collectives()
    table = [one for one in found if one.moves_table(padded, dim, 4)]
    assert len(table) >= 2  # it comes and its gradient goes
    assert not [one for one in table if one.in_loop or one.times > 1]
    assert all(one.bytes < padded * dim / 32 for one in found if one.in_loop)


@pytest.mark.slow
@pytest.mark.parametrize("accumulate", ["float32", "bfloat16"])
def test_the_loss_of_the_1b_in_three_gibibytes(accumulate):
    """8,192 tokens a chip of v6e:4x4: pytest --slow tests/lm/test_tpu_programs.py"""
    run = paper_run(LLASA_1B)
    how = dict(chunk=run.loss_chunk, z_loss=run.z_loss, neighbours=run.loss_neighbours)
    program = compiled_loss(
        "v6e:4x4", 4, 2048, 2048, 194_048, vocab=193_800, accumulate=accumulate, **how
    )
    assert program.temporaries <= 3.0 * 2**30
    assert not [
        one for one in Module.parse(program.text).collectives() if one.in_loop and one.bytes > 2**20
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    "slices, mesh",
    [
        (1, MeshConfig(fsdp=2, tensor=2)),
        (1, MeshConfig(fsdp=2, sequence=2)),
        (2, MeshConfig(data=2, fsdp=2, tensor=2)),
        (2, MeshConfig(data=2, fsdp=2, sequence=2)),
    ],
)
def test_whole_steps_with_splash_attention(slices, mesh):
    """Two layers: pytest --slow tests/lm/test_tpu_programs.py"""
    run = paper_run(SMALL)
    run = replace(run, row=512, train=replace(run.train, batch=8, mesh=mesh))
    found = compile_step(run, topology("v5e:2x2", slices))
    assert found["fits"] and found["head_collectives_in_loops"] == 0
    assert found["mesh"] == {
        name: size for name in ("data", "fsdp", "tensor", "sequence")
        if (size := getattr(mesh, name)) > 1
    }  # fmt: skip
