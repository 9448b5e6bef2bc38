"""Many processes and hosts share out work with nothing between them but a folder.

A job's result is a file that appears whole; a job is claimed by creating a file, which only one
process can. A claim that nobody has renewed for a while, or whose process is gone from this host,
is taken over. Two may then do one job at a time: both write the same bytes, so nothing is lost but
time.
"""

import json
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from llasa_jax.data.place import Place

EXPIRY = 600.0  # seconds after which a claim that was not renewed is void
PAUSE = 0.5  # seconds between looks for what others have finished
FOLDER = "work/claims"


class Claims:
    """Jobs by name in a folder.

    Args:
        place: the folder.
        expiry: seconds after which a claim that was not renewed is void.
    """

    def __init__(self, place: Place, expiry: float = EXPIRY) -> None:
        self._place, self._expiry = place, expiry
        self._host, self._process = os.uname().nodename, os.getpid()
        self._renewed: dict[str, float] = {}

    def take(self, job: str) -> bool:
        """Claims a job; False if another process holds it."""
        name, holder = f"{FOLDER}/{job}", self._holder()
        if not self._place.create(name, holder):
            if not self._void(job, name):
                return False
            self._place.remove(name)
            if not self._place.create(name, holder):
                return False
        self._renewed[job] = time.monotonic()
        return True

    def renew(self) -> None:
        """Says that this process is still at the jobs it holds; cheap, to be called often."""
        now = time.monotonic()
        for job, renewed in list(self._renewed.items()):
            if now - renewed > self._expiry / 10:
                self._renewed[job] = now
                self._place.write(f"{FOLDER}/{job}", self._holder())

    def drop(self, job: str) -> None:
        """Gives a job back, or up after it is done."""
        self._renewed.pop(job, None)
        self._place.remove(f"{FOLDER}/{job}")

    def _holder(self) -> bytes:
        return json.dumps({"host": self._host, "process": self._process}).encode()

    def _void(self, job: str, name: str) -> bool:
        try:
            if self._place.age(name) > self._expiry:
                return True
            holder = json.loads(self._place.read(name))
            here, process = holder["host"] == self._host, int(holder["process"])
        except FileNotFoundError:
            return True  # done or given back meanwhile
        except (ValueError, KeyError, TypeError):
            return False  # until it expires
        if process == self._process:  # an earlier process may have had our number
            return here and job not in self._renewed
        return here and not _runs(process)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def share_out(
    claims: Claims,
    jobs: Sequence[str],
    done: Callable[[str], bool],
    load: Callable[[str], Any],
    finish: Callable[[str, Any], None],
) -> None:
    """Does jobs that nobody else does until all are done, by whomever.

    The next job is loaded by a thread while one is finished.

    Args:
        done: whether a job's result is there.
        load, finish: the two halves of a job; `finish` gets what `load` gave and leaves the result.
    """
    left = dict.fromkeys(jobs)
    held: dict[str, Future] = {}

    def claim() -> bool:
        for job in [job for job in left if job not in held]:
            if not done(job):
                if not claims.take(job):
                    continue
                if not done(job):  # it may have been finished since we looked
                    held[job] = pool.submit(load, job)
                    return True
                claims.drop(job)
            del left[job]
        return False

    with ThreadPoolExecutor(1) as pool:
        try:
            while left:
                while len(held) < 2 and claim():
                    pass
                if not held:
                    time.sleep(PAUSE if left else 0)
                    continue
                job = next(iter(held))
                finish(job, held[job].result())
                del held[job], left[job]
                claims.drop(job)
        finally:
            for job in held:
                claims.drop(job)
