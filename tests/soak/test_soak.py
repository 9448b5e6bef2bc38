"""Short runs of what soak.py does for long: pytest --slow tests/soak/test_soak.py"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


@pytest.mark.parametrize(
    "given", ["kills --times 8 --steps 120", "stops --times 3 --steps 90", "meshes --times 4"]
)
def test_every_promise_is_kept(given):
    script = Path(__file__).with_name("soak.py")
    command = [sys.executable, str(script), *given.split()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=3500, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert json.loads(done.stdout.splitlines()[-1])["ok"]
