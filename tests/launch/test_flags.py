"""The compiler flags of launch/flags, given to the compiler: a pod would refuse what it refuses."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FLAGS = sorted((ROOT / "launch/flags").glob("*.env"))
TOPOLOGY = {"v4": "v4:2x2x2", "v5e": "v5e:4x4", "v5p": "v5p:2x2x2", "v6e": "v6e:4x4"}
TOPOLOGY |= {"tpu7x": "tpu7x:2x2x2"}
STEP = """
import sys
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from llasa_jax.parallel.aot import compile_program, topology

mesh = Mesh(np.array(topology(sys.argv[1]).devices), ("fsdp",))
place = NamedSharding(mesh, PartitionSpec("fsdp"))
shapes = (2048, 8192), (4096, 2048)
given = [jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=place) for shape in shapes]
step = jax.jit(jax.grad(lambda w, x: jnp.square(x @ w).sum()), out_shardings=place)
print(len(compile_program(step.trace(*given)).text))
"""
needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="needs the extra `plan` (libtpu)"
)


def read(path):
    """The flags of a file; every group of them has a comment."""
    groups = re.findall(r"((?:^#.*\n)+)((?:^--.*\n)+)", path.read_text(), re.M)
    assert "".join(a + b for a, b in groups) == path.read_text()
    return [flag for _, flags in groups for flag in flags.split()]


def compiled(kind, flags):
    words = [sys.executable, "-c", STEP, TOPOLOGY[kind]]
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"}
    environment |= {"JAX_PLATFORMS": "cpu", "LIBTPU_INIT_ARGS": " ".join(flags)}
    return subprocess.run(words, env=environment, capture_output=True, text=True)


def test_every_chip_has_its_flags_and_every_flag_a_reason():
    assert {path.stem for path in FLAGS} == set(TOPOLOGY)
    for path in FLAGS:
        flags = read(path)
        assert len(set(flags)) == len(flags)
        assert all(re.fullmatch(r"--xla_[a-z_]+=(true|false|\d+)", flag) for flag in flags)


@needs_libtpu
@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("kind", TOPOLOGY)
def test_the_compiler_takes_them(kind):
    done = compiled(kind, read(ROOT / f"launch/flags/{kind}.env"))
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) > 1000


@needs_libtpu
@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_compiler_refuses_what_it_does_not_know():
    done = compiled("v6e", ["--xla_tpu_go_faster=true"])
    assert done.returncode != 0 and "xla_tpu_go_faster" in done.stderr
