import os
import subprocess
import sys
import threading
import time

import pytest

from llasa_jax.data import claims as module
from llasa_jax.data.claims import FOLDER, Claims, share_out
from llasa_jax.data.place import Place


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)


def test_a_job_is_held_by_one(place):
    ours, theirs = Claims(place), Claims(place)
    theirs._process = os.getppid()
    assert ours.take("a") and not theirs.take("a") and theirs.take("b")
    ours.drop("a")
    assert theirs.take("a") and not ours.take("b")


def test_the_job_of_a_dead_process_is_taken_over(place):
    code = f"""
from llasa_jax.data.claims import Claims
from llasa_jax.data.place import Place
assert Claims(Place({place.url!r})).take("a")
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    assert place.exists(f"{FOLDER}/a")
    assert Claims(place).take("a")


def test_a_claim_from_another_host_expires_unless_it_is_renewed(place):
    far = Claims(place, expiry=0.4)
    far._host = "elsewhere"
    assert far.take("a")
    assert not Claims(place, expiry=0.4).take("a")
    for _ in range(4):
        time.sleep(0.2)
        far.renew()
    assert not Claims(place, expiry=0.4).take("a")
    time.sleep(0.5)
    assert Claims(place, expiry=0.4).take("a")


def test_a_claim_of_an_earlier_process_of_our_number(place):
    assert Claims(place).take("a")
    assert Claims(place).take("a")  # a new process that knows nothing of it
    place.write(f"{FOLDER}/b", b"torn")
    assert not Claims(place).take("b") and Claims(place, expiry=-1).take("b")


def work(place, done, jobs, log, fail=None):
    def finish(job, loaded):
        if job == fail:
            raise RuntimeError(job)
        assert loaded == f"loaded {job}"
        time.sleep(0.01)
        log.append(job)
        place.write(f"done/{job}", job.encode())

    claims = Claims(place)
    claims._process = os.getppid() if threading.current_thread().name == "odd" else os.getpid()
    share_out(claims, jobs, done, lambda job: f"loaded {job}", finish)


def test_every_job_is_done_once_by_two(place, monkeypatch):
    monkeypatch.setattr(module, "PAUSE", 0.01)
    jobs, logs = [f"{n:02d}" for n in range(30)], ([], [])
    done = lambda job: place.exists(f"done/{job}")  # noqa: E731
    other = threading.Thread(target=work, args=(place, done, jobs, logs[1]), name="odd")
    other.start()
    work(place, done, jobs, logs[0])
    other.join()
    assert sorted(logs[0] + logs[1]) == jobs and all(logs)
    assert place.names(FOLDER) == []
    work(place, done, jobs, logs[0])  # nothing is left to do
    assert len(logs[0] + logs[1]) == 30


def test_a_failure_gives_all_claims_back(place):
    done = lambda job: place.exists(f"done/{job}")  # noqa: E731
    with pytest.raises(RuntimeError, match="b"):
        work(place, done, ["a", "b", "c"], [], fail="b")
    assert place.names(FOLDER) == [] and done("a") and not done("c")
