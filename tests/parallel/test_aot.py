import importlib.util

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from llasa_jax.errors import UserError
from llasa_jax.parallel import aot
from llasa_jax.parallel.chips import CHIPS
from llasa_jax.parallel.hlo import Module
from llasa_jax.parallel.mesh import make_mesh

needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="needs the extra `plan` (libtpu)"
)


def compiled(where, shape, axes, function, slices=1):
    topology = aot.topology(where, slices)
    mesh = make_mesh(data=slices, devices=topology.devices)
    place = NamedSharding(mesh, PartitionSpec(*axes))
    array = jax.ShapeDtypeStruct(shape, jnp.float32, sharding=place)
    return topology, aot.compile_program(jax.jit(function).trace(array, array))


@needs_libtpu
@pytest.mark.parametrize(
    "where, devices", [("v4:2x2x1", 4), ("v5e:4x4", 16), ("v5e:1x1", 1), ("tpu7x:2x2x1", 8)]
)
def test_topologies(where, devices):
    found = aot.topology(where)
    assert len(found.devices) == devices
    assert found.chips == devices // found.chip.devices
    assert found.chip is CHIPS[where.split(":")[0]]


@needs_libtpu
def test_a_program_for_two_slices_of_sixteen_chips():
    def step(w, g):
        return w - jnp.broadcast_to(jnp.sum(g, 0), w.shape)

    where, program = compiled("v5e:4x4", (256, 4096), (("data", "fsdp"),), step, slices=2)
    assert where.chips == len(where.devices) == 32
    assert program.arguments == 2 * 8 * 4096 * 4  # of 256 rows each chip holds 8
    assert program.peak == program.arguments + program.temporaries < 2**20
    kinds = {c.kind for c in Module.parse(program.text).collectives()}
    assert "all-reduce" in kinds and "send" in kinds  # within a slice, and between the two


@needs_libtpu
def test_a_program_that_does_not_fit_says_what_it_wants():
    """Two arrays of 8 GiB on every chip of 15.75, and their product."""
    _, program = compiled("v5e:2x2", (32768, 65536), (), lambda a, b: jnp.sin(a @ b.T))
    assert program.arguments is None and program.text == ""
    assert program.peak >= 16 * 2**30 > CHIPS["v5e"].hbm


@needs_libtpu
def test_slices_that_are_not_made():
    with pytest.raises(UserError, match=r"'v5e:3x5': libtpu has none such \(.*host_bounds"):
        aot.topology("v5e:3x5")


@pytest.mark.parametrize("name", ["v9:4x4", "v5e", "v5e:4", "v5e:4x0", "v5e:4x4x4x4", "4x4", ""])
def test_names_that_are_no_topology(name):
    with pytest.raises(UserError, match="expected a chip and its grid, as v5e:4x4; chips: v4"):
        aot.topology(name)


def test_no_slices():
    with pytest.raises(UserError, match="slices: 0 is not positive"):
        aot.topology("v5e:4x4", slices=0)


def test_libtpu_missing_names_its_extra(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"needs libtpu: pip install 'llasa-jax\[plan\]'"):
        aot.topology("v5e:4x4")


@pytest.mark.parametrize(
    "message, wanted",
    [
        ("memory required for HLO temporaries (32.00G) exceeds available HBM (15.75G).", 32),
        ("Ran out of memory in memory space hbm. Used 21.90G of 15.75G hbm. Exceeded", 21.9),
    ],
)
def test_how_the_compiler_says_out_of_memory(message, wanted):
    assert float(aot._OUT_OF_MEMORY.search(message)[1]) == wanted
