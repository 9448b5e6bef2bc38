import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def eight_devices() -> Callable[[str], dict]:
    """What `eight_devices.py` finds, in a process that has them."""

    def run(what: str) -> dict:
        script = Path(__file__).with_name("eight_devices.py")
        environment = os.environ | {"PYTHONPATH": str(script.parents[2]), "JAX_PLATFORMS": "cpu"}
        environment["XLA_FLAGS"] = "--xla_backend_optimization_level=0"  # compiles faster
        command = [sys.executable, script, what]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return run
