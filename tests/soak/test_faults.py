"""Faults of the disk under a run, real ones: pytest --slow tests/soak/test_faults.py"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
SCRIPT = Path(__file__).with_name("fault.py")


def run(fault: str, folder: Path, *before: str) -> dict:
    """A life of the run, in a shell after `before`; it ends by itself, whatever happens."""
    environment = os.environ | {"SOAK_LOUD": "1", "HOME": str(folder.parent)}
    command = [*before, sys.executable, str(SCRIPT), fault, str(folder)]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=800, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1]) | {"log": done.stderr}


def steps(folder: Path) -> list[int]:
    return sorted(int(p.name) for p in (folder / "checkpoints").iterdir() if p.name.isdecimal())


def same(found: dict, expected: dict) -> bool:
    return (found.get("digest"), found.get("curve")) == (expected["digest"], expected["curve"])


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> dict:
    return run("none", tmp_path_factory.mktemp("whole") / "run")


def small_disk(folder: Path) -> list[str]:
    """What a command is to be put after, to have a disk of 8 MiB of its own at `folder`."""
    mount = f'mount -t tmpfs -o size=8m none {folder} && exec "$@"'
    words = ["unshare", "-m", "sh", "-c", mount, "sh"]
    folder.mkdir(exist_ok=True)
    if subprocess.run([*words, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no right to mount a small disk")
    return words


def test_a_disk_that_is_full_for_a_while(whole, tmp_path):
    disk = small_disk(tmp_path / "disk")
    keep = ["sh", "-c", f'"$@"; s=$?; cp -r {tmp_path}/disk/run {tmp_path}/kept; exit $s', "sh"]
    found = run("disk full for a while", tmp_path / "disk/run", *disk, *keep)
    assert same(found, whole)
    assert "could not be saved (" in found["log"]
    assert "cannot be written (No space left on device); training goes on" in found["log"]
    assert steps(tmp_path / "kept")[-1] == 60
    assert len((tmp_path / "kept/curve.csv").read_text().splitlines()) == 1 + len(whole["curve"])


def test_a_disk_that_is_full_to_the_end(whole, tmp_path):
    disk = small_disk(tmp_path / "disk")
    keep = ["sh", "-c", f'"$@"; s=$?; cp -r {tmp_path}/disk/run {tmp_path}/kept; exit $s', "sh"]
    found = run("disk full to the end", tmp_path / "disk/run", *disk, *keep)
    assert "checkpoint of step 60: could not be saved, the newest whole one" in found["error"]
    last = steps(tmp_path / "kept")[-1]
    assert 15 <= last <= 22 and f"is of step {last}; make room" in found["error"]
    assert same(run("none", tmp_path / "kept"), whole)  # with room it goes on from there


def test_permission_that_is_lost_for_a_while(whole, tmp_path):
    tmp_path.chmod(0o777)
    for parent in list(tmp_path.parents)[:3]:
        parent.chmod(0o755)
    found = run("permission lost for a while", tmp_path / "here/run")
    assert same(found, whole) and "could not be saved (" in found["log"]
    assert steps(tmp_path / "here/run")[-1] == 60


def test_permission_that_is_lost_to_the_end(whole, tmp_path):
    tmp_path.chmod(0o777)
    for parent in list(tmp_path.parents)[:3]:
        parent.chmod(0o755)
    found = run("permission lost to the end", tmp_path / "here/run")
    assert "checkpoint of step 60: could not be saved" in found["error"]
    assert 15 <= steps(tmp_path / "here/run")[-1] <= 22


def test_the_runs_folder_is_deleted(whole, tmp_path):
    found = run("folder deleted", tmp_path / "run")
    assert same(found, whole) and steps(tmp_path / "run")[-1] == 60
    assert same(run("none", tmp_path / "run"), whole)


def test_the_runs_folder_becomes_a_file(whole, tmp_path):
    found = run("folder replaced by a file", tmp_path / "run")
    assert "checkpoint of step 60: could not be saved, the newest whole one" in found["error"]
    assert (tmp_path / "run").read_text() == "mine"


@pytest.mark.parametrize("harm", ["halved", "emptied", "gone"])
def test_every_file_of_the_newest_checkpoint_is(harm, whole, tmp_path):
    run("none", tmp_path / "run")
    newest = tmp_path / f"run/checkpoints/{steps(tmp_path / 'run')[-1]}"
    for path in [p for p in newest.rglob("*") if p.is_file()]:
        if harm == "gone":
            path.unlink()
        else:
            size = path.stat().st_size // 2 if harm == "halved" else 0
            path.write_bytes(path.read_bytes()[:size])
    found = run("none", tmp_path / "run")
    assert same(found, whole) and "set aside, going on from" in found["log"]
    assert (tmp_path / "run/aside" / newest.name).is_dir()
    shutil.rmtree(tmp_path / "run")
