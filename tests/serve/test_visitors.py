"""The page in real Chromium, requests made from the API's own description, and hostile ones."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def script(name, *arguments, timeout=1200):
    command = [sys.executable, str(HERE / name), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, done.stderr[-2000:] + done.stdout[-2000:]
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.network
@pytest.mark.timeout(1300)
def test_the_page_types_searches_plays_and_downloads(server, tmp_path):
    """Network: axe-core is fetched from npm."""
    pytest.importorskip("playwright")
    if not (shutil.which("chromium") and shutil.which("npm")):
        pytest.skip("needs chromium and npm")
    subprocess.run(["npm", "pack", "axe-core"], cwd=tmp_path, check=True, capture_output=True)
    shutil.unpack_archive(next(tmp_path.glob("axe-core-*.tgz")), tmp_path, filter="data")
    axe = tmp_path / "package" / "axe.min.js"
    found = script("browser.py", server.address, "--axe", axe, "--candidates", 3, "--seconds", 300)
    assert found["console"] == []
    assert found["axe"] == {"desktop-light": [], "desktop-dark": [], "phone": []}
    for name in found["axe"]:
        view = found[name]
        assert view["takes"] == 3 and view["kept"] == 1 and view["curves"] == 2 and view["drawn"]
        assert view["file"] == "speech.wav" and view["head"] == "RIFF" and view["bytes"] > 20_000
        assert view["overflow"] <= 0
    assert "consent" in found["phone"]["without_consent"]


@pytest.mark.slow
@pytest.mark.timeout(1300)
def test_hostile_requests_are_refused_one_by_one(server):
    found = script("hostile.py", server.address, "--count", 500, "--seed", 1)
    assert found["wrong"] == [] and found["requests"] == 500
    assert found["statuses"]["400"] > 200 and found["statuses"]["403"] > 10


@pytest.mark.slow
@pytest.mark.timeout(1300)
def test_requests_after_its_own_description(server):
    """schemathesis: no 5xx, answers of the types that the description names."""
    pytest.importorskip("schemathesis")
    checks = "not_a_server_error,content_type_conformance"
    command = ["schemathesis", "run", f"{server.address}/openapi.json", "--checks", checks]
    command += ["--max-examples", "30", "--request-timeout", "120", "--seed", "0"]
    command += ["--exclude-path", "/metrics"]  # Prometheus' own text
    program = Path(sys.executable).with_name(command[0])
    done = subprocess.run([program, *command[1:]], capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stdout[-3000:]
