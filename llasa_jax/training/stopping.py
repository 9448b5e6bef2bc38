"""What may come while a run trains: a request to stop, and nothing at all for too long."""

import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from types import TracebackType
from typing import Any

import jax

from llasa_jax.console import log
from llasa_jax.training.meter import Ledger

KILLED = 128 + signal.SIGTERM  # exit status after a second signal


class Stop:
    """SIGTERM while a run trains: it is asked to stop. A second one ends the process at once.

    A thread of its own hears it, so that a main thread which hangs on the devices can be ended too.
    Outside the main thread there are no signals, and nothing is asked.
    """

    def __init__(self) -> None:
        self.asked = False

    def __enter__(self) -> "Stop":
        self._pair: tuple[socket.socket, socket.socket] | None = None
        if threading.current_thread() is threading.main_thread():
            self._pair = socket.socketpair()
            self._pair[1].setblocking(False)
            self._old = signal.signal(signal.SIGTERM, lambda *_: None)
            fd = self._pair[1].fileno()
            self._old_fd = signal.set_wakeup_fd(fd, warn_on_full_buffer=False)
            threading.Thread(target=self._listen, args=(self._pair[0],), daemon=True).start()
        return self

    def __exit__(self, kind: Any, error: Any, trace: TracebackType | None) -> None:
        if self._pair is not None:
            signal.set_wakeup_fd(self._old_fd)
            signal.signal(signal.SIGTERM, self._old or signal.SIG_DFL)
            self._pair[1].close()  # which ends the thread

    def _listen(self, heard: socket.socket) -> None:
        with heard:
            while numbers := heard.recv(64):
                for _ in range(numbers.count(signal.SIGTERM)):
                    if self.asked:
                        os._exit(KILLED)
                    self.asked = True
                    log("asked to stop: saving after this step; a second signal ends at once")


class Watchdog:
    """Names what a run waits for, when nothing has happened for `seconds`, and again at twice that.

    Args:
        step: of what the seconds go into, the number of the step that it is for.
    """

    NAMES = {
        "start": "making or restoring the state before step {} takes",
        "compile": "compiling for step {} takes",
        "data": "the batch of step {} has not come for",
        "validation": "validation before step {} takes",
        "checkpoint": "saving before step {} takes",
        "useful": "step {} has not ended for",
    }

    def __init__(self, ledger: Ledger, step: Callable[[str], int], seconds: float):
        self.ledger, self.step, self.seconds = ledger, step, seconds
        self._told = (0.0, 0.0)  # since when nothing happens, and the seconds last told
        self._over = threading.Event()
        self._main = threading.get_ident()

    def __enter__(self) -> "Watchdog":
        if self.seconds:
            threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(self, kind: Any, error: Any, trace: TracebackType | None) -> None:
        self._over.set()

    def look(self, now: float) -> str | None:
        """A line about what takes too long, once for each doubling."""
        doing, since = self.ledger.doing, self.ledger.mark
        told = self._told[1] if self._told[0] == since else 0.0
        if now - since < max(self.seconds, 2 * told):
            return None
        self._told = (since, now - since)
        what = self.NAMES[doing].format(self.step(doing))
        return f"process {jax.process_index()}: {what} {now - since:.0f} s (at {self._place()})"

    def _watch(self) -> None:
        while not self._over.wait(min(self.seconds / 4, 10.0)):
            line = self.look(time.monotonic())
            if line is not None:  # of every process: it is not for the one that speaks for all
                print(f"llasa: warning: {line}", file=sys.stderr, flush=True)

    def _place(self) -> str:
        """Where in this project the main thread stands."""
        frames = traceback.extract_stack(sys._current_frames().get(self._main))
        frames = [one for one in frames if one.filename != __file__]
        ours = [one for one in frames if "llasa_jax" in one.filename] or frames
        return ", ".join(f"{os.path.basename(one.filename)}:{one.lineno}" for one in ours[-2:])
