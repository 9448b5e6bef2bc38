"""The loop on emulated devices: equal losses on every mesh, of one process and of two."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from llasa_jax.config import MeshConfig
from llasa_jax.errors import UserError
from llasa_jax.training.meter import TIMED
from llasa_jax.training.step import training_mesh

pytestmark = pytest.mark.timeout(300)


def start(*arguments: object) -> subprocess.Popen:
    script = Path(__file__).with_name("eight_devices.py")
    environment = os.environ | {"PYTHONPATH": str(script.parents[2]), "JAX_PLATFORMS": "cpu"}
    environment["XLA_FLAGS"] = "--xla_backend_optimization_level=0"  # compiles faster
    command = [sys.executable, script, *map(str, arguments)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True)


def result(process: subprocess.Popen) -> dict:
    out, errors = process.communicate()
    assert process.returncode == 0, errors
    return json.loads(next(line for line in out.splitlines() if line.startswith("{")))


@pytest.fixture(scope="module")
def toy(tmp_path_factory) -> dict:
    return result(start(tmp_path_factory.mktemp("toy"), "toy"))


def assert_same(found: dict, expected: dict) -> None:
    assert len(found["curve"]) == len(expected["curve"]) == 4
    for row, other in zip(found["curve"], expected["curve"], strict=True):
        row, other = ({k: v for k, v in r.items() if k not in TIMED} for r in (row, other))
        assert row == pytest.approx(other, rel=1e-5, abs=1e-7)
    assert found["norm"] == pytest.approx(expected["norm"], rel=1e-6)


@pytest.mark.parametrize("mesh", ["data", "fsdp", "mixed"])
def test_a_run_is_the_same_on_every_mesh(toy, mesh):
    assert_same(toy[mesh], toy["one"])
    assert toy["one"]["curve"][0]["error"] > toy["one"]["curve"][3]["error"]


def test_a_run_goes_on_with_other_devices(toy):
    assert all(found["restored"] for found in toy.values())


def test_parameters_are_split_over_fsdp(toy):
    shards = {name: found["shard"] for name, found in toy.items()}  # of [16, 256]
    assert shards == {"one": [16, 256], "data": [16, 256], "fsdp": [2, 256], "mixed": [8, 256]}


def two_processes(folder: Path, what: str) -> list[dict]:
    """What each of two processes of four devices found, on the mixed mesh."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    processes = [start(folder, what, address, number) for number in range(2)]
    return [result(process)["mixed"] for process in processes]


def test_two_processes_train_as_one(toy, tmp_path):
    for found in two_processes(tmp_path, "toy"):
        assert_same(found, toy["one"])
        # Saved and restored by both, split over the devices of both, and put together in each.
        assert found["restored"] and found["shard"] == [8, 256]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_gan_is_the_same_on_every_mesh(tmp_path):
    """pytest --slow tests/training/test_mesh.py -k gan"""
    found = result(start(tmp_path / "one process", "codec"))
    alone = found.pop("one")
    for other in (*found.values(), *two_processes(tmp_path / "two", "codec")):
        assert_same(other, alone)
        assert other["restored"]


def test_meshes_that_cannot_be():
    with pytest.raises(UserError, match="at most one of them -1"):
        MeshConfig(data=-1, fsdp=-1)
    with pytest.raises(UserError, match="does not fit 1 devices"):
        training_mesh(MeshConfig(data=3))
