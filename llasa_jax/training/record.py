"""What a run keeps of itself in its folder: its length, its pace, its curve, its events."""

import csv
import io
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jax

from llasa_jax.config import MeshConfig, TrainConfig, to_dict, values_hash
from llasa_jax.console import log
from llasa_jax.errors import UserError

# Settings that a run may go on with others of; not in the hash, so that older runs can too.
FREE = ("save_minutes", "checkpoints", "keep", "keep_best", "bad_steps", "watch_minutes")
WARM_STEPS = 8  # a run with a time budget first looks at its rate after as many steps


class Plan:
    """The run's length, fixed once: configured, or what a time budget affords on this machine."""

    def __init__(self, path: Path, values: dict):
        self.path, self.values = path, values

    @classmethod
    def open(cls, folder: Path, config: TrainConfig, seed: int) -> "Plan":
        path = folder / "plan.json"
        # A run may go on with other devices, and compile and keep what it likes.
        same = to_dict(replace(config, mesh=MeshConfig(), compile_cache=True, keep_every=0))
        same = {name: value for name, value in same.items() if name not in FREE}
        wanted = {"config": values_hash(same), "seed": seed}
        if path.is_file():
            try:
                values = json.loads(path.read_text())
            except ValueError:
                values = {}  # a broken plan is nobody's
            if {k: values.get(k) for k in wanted} != wanted:
                raise UserError(
                    f"{folder}: holds a run with other settings or seed; give another folder"
                )
            return cls(path, values)
        plan = cls(path, wanted | {"steps": config.steps, "decided": False})
        plan._write()
        return plan

    @property
    def steps(self) -> int:
        return self.values["steps"]

    @property
    def decided(self) -> bool:
        return self.values["decided"]

    def decide(self, steps: int) -> None:
        self.values |= {"steps": steps, "decided": True}
        self._write()

    def _write(self) -> None:
        replace_file(self.path, json.dumps(self.values))


class Pace:
    """Keeps a run within its seconds: looks at the rate, rarely, and shortens the plan."""

    def __init__(self, plan: Plan, budget: float | None, start: int):
        self.plan, self.budget, self.start = plan, budget, start
        self.wanted = plan.steps
        self.began = self.before = time.monotonic()
        self.window = WARM_STEPS
        self.next = start + WARM_STEPS if budget and not plan.decided else None

    def looks(self, step: int) -> bool:
        return step == self.next

    def look(self, step: int) -> int:
        """The run's length, by the rate since the last look; the first look only starts a clock."""
        now = time.monotonic()
        if step > self.start + WARM_STEPS:
            left = max(self.budget - (now - self.began), 0.0)
            affordable = step + int(left * self.window / max(now - self.before, 1e-9))
            steps = min(self.wanted, max(affordable, self.wanted // 10))
            if steps != self.plan.steps:
                log(f"time for {steps} of {self.wanted} steps on this machine")
            self.plan.decide(steps)
            self.window *= 2
        self.before = now
        self.next = step + self.window if 2 * (step + self.window) <= self.plan.steps else None
        if step == self.start + WARM_STEPS:
            self.next = step + self.window
        return self.plan.steps


class Curve:
    """A row a logged step: `curve.csv`, and event files for TensorBoard in `tensorboard/`.

    Of the rows that an earlier process wrote, those past the resumed step are dropped. Process 0
    writes for all. A disk that refuses is told of once; what is missing is written with a later row
    (not for TensorBoard).
    """

    def __init__(self, folder: Path, start: int):
        self.path = folder / "curve.csv"
        self.rows = read_curve(self.path)
        self._events: Any = None
        self.back(start)

    def back(self, start: int) -> None:
        """The run goes on from `start`: rows past it are those of steps that were taken back."""
        self.start = start
        self.rows = [row for row in self.rows if row["step"] <= start]
        self._names: list[str] = []  # of the file's columns; [] until this process wrote it
        self.close()

    def write(self, row: dict) -> None:
        self.rows.append(row)
        if jax.process_index() != 0:
            return
        with going_on(self.path) as whole:
            # Where somebody deleted the file, a row alone would make one without columns.
            if self._names and set(row) <= set(self._names) and self.path.is_file():
                with self.path.open("a", newline="") as file:
                    file.write(self._text([row]))
            else:
                self._names = list(dict.fromkeys(name for row in self.rows for name in row))
                replace_file(self.path, ",".join(self._names) + "\r\n" + self._text(self.rows))
        if not whole:
            self._names = []
        with going_on(self.path.with_name("tensorboard")):
            self._tell_tensorboard(row)

    def _tell_tensorboard(self, row: dict) -> None:
        # Their SummaryWriter writes in a thread: on a full disk that ends, and the run with it.
        # It loads torch where that is installed.
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog
        from tensorboardX.summary import scalar

        if self._events is None:
            folder = self.path.with_name("tensorboard")
            folder.mkdir(exist_ok=True)
            number = len(list(folder.iterdir()))
            self._events = EventsWriter(str(folder / "events"), f".{number}")
            if self.start:
                begun = SessionLog(status=SessionLog.START)
                event = Event(wall_time=_clock(), step=self.start + 1, session_log=begun)
                self._events.write_event(event)
        for name, value in row.items():
            if name != "step":
                event = Event(wall_time=_clock(), step=row["step"], summary=scalar(name, value))
                self._events.write_event(event)
        self._events.flush()

    def close(self) -> None:
        if self._events is not None:
            with going_on(self.path.with_name("tensorboard")):
                self._events.close()
            self._events = None

    def _text(self, rows: list[dict]) -> str:
        table = io.StringIO(newline="")
        csv.DictWriter(table, self._names).writerows(rows)
        return table.getvalue()


class Events:
    """What happened to a run, a JSON line each in `events.jsonl`, and in the log."""

    def __init__(self, folder: Path):
        self.path = folder / "events.jsonl"

    def tell(self, what: str, **values: Any) -> None:
        log(what)
        if jax.process_index() == 0:
            now = datetime.now(UTC).isoformat(timespec="seconds")
            with going_on(self.path), self.path.open("a") as file:
                file.write(json.dumps({"time": now, "what": what} | values) + "\n")


def _clock() -> float:
    return datetime.now(UTC).timestamp()


_refused: set[Path] = set()


@contextmanager
def going_on(path: Path) -> Iterator[list[bool]]:
    """What a run can do without: a disk that refuses it is told of once, and the run goes on.

    The list that it gives is empty where that was so.
    """
    whole = [True]
    try:
        yield whole
        _refused.discard(path)
    except OSError as error:
        whole.clear()
        if path not in _refused:
            log(f"{path}: cannot be written ({error.strerror or error}); training goes on")
        _refused.add(path)


def read_curve(path: Path) -> list[dict]:
    """Rows of a run's `curve.csv`, numbers as floats, absent cells left out.

    So are rows that are none: the last may be torn.
    """
    if not path.is_file():
        return []
    rows = []
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    for row in csv.DictReader(line for line in lines if line.endswith("\n")):
        try:
            found = {name: float(value) for name, value in row.items() if value}
            rows.append(found | {"step": int(found["step"])})
        except (ValueError, KeyError, TypeError, OverflowError):
            continue
    return rows


def replace_file(path: Path, text: str) -> None:
    """Writes a file whole or not at all; the first process does it for all."""
    if jax.process_index() == 0:
        temporary = path.with_suffix(".tmp")
        temporary.write_text(text)
        os.replace(temporary, path)
