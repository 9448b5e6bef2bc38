"""The language model on emulated devices: equal losses on every mesh, of one process and of two."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(300)


def start(*arguments: object) -> subprocess.Popen:
    script = Path(__file__).with_name("language_devices.py")
    environment = os.environ | {"PYTHONPATH": str(script.parents[2]), "JAX_PLATFORMS": "cpu"}
    environment["XLA_FLAGS"] = "--xla_backend_optimization_level=0"  # compiles faster
    command = [sys.executable, script, *map(str, arguments)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True)


def losses(process: subprocess.Popen) -> dict[str, list[float]]:
    out, errors = process.communicate(timeout=280)
    assert process.returncode == 0, errors
    return json.loads(next(line for line in out.splitlines() if line.startswith("{")))


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> dict[str, list[float]]:
    return losses(start(tmp_path_factory.mktemp("language")))


@pytest.mark.parametrize("mesh", ["fsdp", "tensor", "sequence"])
def test_twenty_steps_are_the_same_on_every_mesh(alone, mesh):
    assert len(alone["one"]) == 20 and alone["one"][-1] < 0.95 * alone["one"][0]
    assert alone[mesh] == pytest.approx(alone["one"], rel=1e-5)


@pytest.mark.slow
def test_two_processes_of_four_devices_train_as_one_device(alone, tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    processes = [start(tmp_path, address, number) for number in range(2)]
    for process in processes:
        assert losses(process)["fsdp"] == pytest.approx(alone["one"], rel=1e-5)
