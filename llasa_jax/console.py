"""Progress and log lines on stderr: a live bar on a terminal, a few plain lines elsewhere.

Standard output stays free for results, so that ``--json`` prints one object alone.
"""

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

T = TypeVar("T")

PLAIN_INTERVAL_S = 15.0  # a log file gets at most one progress line in this time


_silent = False


def silence() -> None:
    """From now on this process shows nothing: of several that work on one thing, one speaks."""
    global _silent
    _silent = True


def _console() -> Console:
    # Looked up on every use: sys.stderr may have been replaced since import (tests, services).
    return Console(file=sys.stderr, highlight=False, quiet=_silent)


def log(message: str) -> None:
    """Print one line on stderr (above the live bar, where one is shown)."""
    console = _live[-1].console if _live else _console()
    console.print(message, markup=False, soft_wrap=True)


def _info_text(info: dict[str, Any]) -> str:
    def show(value: Any) -> str:
        return value if isinstance(value, str | int) else f"{float(value):.4g}"

    return "  ".join(f"{name} {show(value)}" for name, value in info.items())


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


@dataclass
class Bar:
    """Progress of one stage; made by `bar`."""

    description: str
    total: float | None
    unit: str
    done: float = 0
    started: float = field(default_factory=lambda: time.monotonic())
    _first: float = 0  # what was done before this process started (a resumed run)
    _progress: Progress | None = None
    _task: TaskID | None = None
    _printed: float = field(default_factory=lambda: time.monotonic())

    def advance(self, n: float = 1, **info: Any) -> None:
        """Count `n` more units and show `info` (numbers or short text, for example the loss)."""
        self.done += n
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, advance=n, rate=self._rate(), info=_info_text(info))
        elif time.monotonic() - self._printed >= PLAIN_INTERVAL_S:
            self._printed = time.monotonic()
            log(self._line(_info_text(info)))

    def _seconds(self) -> float:
        return max(time.monotonic() - self.started, 1e-9)

    def _rate(self) -> str:
        rate = (self.done - self._first) / self._seconds()
        slow = 0 < rate < 1
        return f"{1 / rate:.1f} s each" if slow else f"{rate:.1f} {self.unit}/s"

    def _line(self, info: str = "") -> str:
        parts = [
            f"{self.done:.0f}" + (f"/{self.total:.0f}" if self.total else "") + f" {self.unit}"
        ]
        parts.append(self._rate())
        made = self.done - self._first
        if self.total and made > 0:
            parts.append(f"{_duration((self.total - self.done) * self._seconds() / made)} left")
        return f"{self.description}: " + ", ".join(parts) + (f"  {info}" if info else "")

    def _summary(self) -> str:
        counted = f"{self.done:.0f} {self.unit}"
        return f"{self.description}: {counted} in {_duration(self._seconds())} ({self._rate()})"


_live: list[Progress] = []  # the display that is open now; log() writes above it


@contextmanager
def bar(
    description: str, total: float | None = None, unit: str = "it", done: float = 0
) -> Iterator[Bar]:
    """Show the progress of one stage: bar, rate, time left and the latest `info`.

    Args:
      description: what is being done, a few words.
      total: number of units; None when it is not known.
      unit: name of a unit ("steps", "files").
      done: units finished by an earlier, interrupted run; they do not count for the rate.
    """
    shown = Bar(description, total, unit, done=done, _first=done)
    console = _console()
    if not console.is_terminal or _live:
        yield shown
        log(shown._summary())
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}", markup=False),
        TimeRemainingColumn(),
        TextColumn("{task.fields[info]}", markup=False),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        shown._progress = progress
        shown._task = progress.add_task(description, total=total, completed=done, rate="", info="")
        _live.append(progress)
        try:
            yield shown
        finally:
            _live.remove(progress)
    log(shown._summary())


def track(
    iterable: Iterable[T], description: str, total: float | None = None, unit: str = "it"
) -> Iterator[T]:
    """Yield the items of `iterable` and show how far it has come."""
    if total is None and hasattr(iterable, "__len__"):
        total = len(iterable)
    with bar(description, total, unit) as shown:
        for item in iterable:
            yield item
            shown.advance()
