"""What a run's seconds went into, and how fast it was: `ledger.json` and the timed metrics."""

import json
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from llasa_jax.parallel.flops import chip_count, utilisation
from llasa_jax.training.record import going_on, replace_file

# Rows of a curve that another run of the same seed does not have to the bit.
TIMED = ("tokens_s_chip", "mfu", "mfu_without_head", "data_wait", "goodput")
KEPT = 16  # checkpoints of which the ledger knows what they hold
LOSSES = ("start", "compile", "data", "validation", "checkpoint", "skipped", "lost")


class Work(NamedTuple):
    """Of one process's rows of a batch: tokens without padding, and the model FLOPs of a step."""

    tokens: float
    flops: float
    flops_without_head: float


class Ledger:
    """Seconds of a run by what they went into, over all its restarts; process 0 keeps the file.

    "useful" are those of steps that are in the model; "start" is making or restoring the state,
    "data" waiting for a batch while the devices had nothing to do, "skipped" steps that changed
    nothing, "lost" steps that an interruption took back. Seconds in which no process ran do not
    count.

    Args:
        start: the step that the run goes on from.

    Attributes:
        doing: what the seconds since `mark`, a time of `time.monotonic`, go into.
    """

    def __init__(self, path: Path, start: int):
        self.path, self.doing = path, "useful"
        try:
            found = json.loads(path.read_text())
            self.seconds = {name: float(found["seconds"][name]) for name in ("useful", *LOSSES)}
            self._saved = {int(step): float(useful) for step, useful in found["saved"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            self.seconds, self._saved = dict.fromkeys(("useful", *LOSSES), 0.0), {}
        self._lose(start)
        self.mark = time.monotonic()

    def back(self, start: int) -> None:
        """The run goes on from a checkpoint: what was useful since then is lost."""
        self._pass("useful")
        self._lose(start)

    def _lose(self, start: int) -> None:
        self._move(self.seconds["useful"] - self._saved.get(start, 0.0), "lost")

    @contextmanager
    def spent(self, what: str) -> Iterator[None]:
        """The seconds inside are spent on `what`; those since the last such were useful."""
        self._pass("useful")
        self.doing = what
        try:
            yield
        finally:
            self._pass(what)
            self.doing = "useful"

    def saving(self, step: int) -> None:
        """What is useful now is in the checkpoint of `step`, and cannot be lost any more."""
        self._pass("useful")
        self._saved = dict([*self._saved.items(), (step, self.seconds["useful"])][-KEPT:])
        self.write()

    def skip(self, seconds: float) -> None:
        """So many of the useful seconds were of steps that changed nothing."""
        self._move(seconds, "skipped")

    def stepping(self) -> float:
        """Seconds so far that went into steps, and into waiting for their data."""
        self._pass("useful")
        return sum(self.seconds[name] for name in ("useful", "data", "skipped", "lost"))

    @property
    def goodput(self) -> float:
        """The useful share of all seconds."""
        return self.seconds["useful"] / max(sum(self.seconds.values()), 1e-9)

    def write(self) -> None:
        with going_on(self.path):
            replace_file(self.path, json.dumps({"seconds": self.seconds, "saved": self._saved}))

    def _pass(self, what: str) -> None:
        now = time.monotonic()
        self.seconds[what] += now - self.mark
        self.mark = now

    def _move(self, seconds: float, to: str) -> None:
        self.seconds["useful"] -= seconds
        self.seconds[to] += seconds


class Meter:
    """The metrics of the steps since the last row of the curve.

    A step's metrics are read from the devices when the next step has been given to them: so the
    loop is never more than one step ahead, and the devices never wait for it.

    Attributes:
        step: the last step whose metrics are read.
        bad: so many steps up to it were skipped, one after the other.
        newest: the metrics of the step after it, still on the devices.

    Args:
        pending: of an earlier process, what its `pending` was at `start`.
    """

    def __init__(
        self,
        ledger: Ledger,
        devices: Iterable[jax.Device],
        start: int,
        pending: dict[str, Any] | None = None,
    ):
        self.ledger, self.step = ledger, start
        self.devices = list(devices)
        self.newest: dict | None = None
        self._work: Work | None = None
        given = pending or {"bad": 0, "steps": []}
        self.bad: int = given["bad"]
        self._read: list[tuple[dict, Work | None]] = [
            ({name: np.float32(float.fromhex(value)) for name, value in metrics.items()}, None)
            for metrics in given["steps"]
        ]
        self._began, self._waited = ledger.stepping(), ledger.seconds["data"]

    def push(self, metrics: dict, work: Work | None) -> None:
        """Takes the metrics of a step just dispatched, and reads those of the step before."""
        self.read()
        self.newest, self._work = metrics, work

    def read(self) -> None:
        """Waits for the newest step's metrics, if they are not read yet."""
        if self.newest is not None:
            metrics = jax.device_get(self.newest)
            self._read.append((metrics, self._work))
            self.newest = None
            self.step += 1
            self.bad = self.bad + 1 if metrics["skipped"] else 0

    def pending(self) -> dict[str, Any]:
        """What the next row will hold of the steps so far, to the bit, JSON-able."""
        steps = [{name: float(v).hex() for name, v in metrics.items()} for metrics, _ in self._read]
        return {"bad": self.bad, "steps": steps}

    @property
    def empty(self) -> bool:
        """Whether no step has been read since the last row."""
        return not self._read

    def row(self) -> dict[str, Any]:
        """Means over the steps read since the last row, and how many were skipped.

        With tokens a second and chip, MFU with and without the head (where the devices' peak is
        known), the share of the time that was spent waiting for data, and the run's goodput so far.
        Of steps that were all not finite there are no means.
        """
        steps, self._read = self._read, []
        metrics = [found for found, _ in steps]
        finite = [m for m in metrics if not m["skipped"] or m.get("spiked")]
        kept = [m for m in finite if not m["skipped"]] or finite
        names = dict.fromkeys(name for m in kept for name in m)
        had = {name: [m[name] for m in kept if name in m] for name in names}
        row = {name: float(sum(values) / len(values)) for name, values in had.items()}
        for name in ("skipped", "spiked"):
            if name in metrics[0]:
                row[name] = float(sum(m[name] for m in metrics))
        return {"step": self.step} | row | self._rates([w for _, w in steps], row["skipped"])

    def _rates(self, works: list[Work | None], skipped: float) -> dict[str, float]:
        began, waited = self._began, self._waited
        self._began, self._waited = self.ledger.stepping(), self.ledger.seconds["data"]
        seconds = max(self._began - began, 1e-9)
        waiting = self._waited - waited
        self.ledger.skip((seconds - waiting) * skipped / len(works))
        self.ledger.write()
        rates = {"data_wait": waiting / seconds, "goodput": self.ledger.goodput}
        known = [work for work in works if work is not None]
        if not known:
            return rates
        each = jax.process_count() * np.sum(known, 0) / seconds
        found = {"tokens_s_chip": each[0] / chip_count(self.devices)}
        for name, flops in (("mfu", each[1]), ("mfu_without_head", each[2])):
            share = utilisation(flops, 1.0, self.devices)
            found |= {} if share is None else {name: share}
        return {name: float(value) for name, value in found.items()} | rates
