"""The memory that a run and the programs it starts hold together."""

import os
import threading
from pathlib import Path
from typing import Self

PERIOD = 0.5  # seconds


class PeakMemory:
    """Watches resident memory of this process and its descendants while it is entered (Linux).

    `gib` is the largest sum seen, sampled twice a second; 0.0 where there is no /proc.
    """

    def __init__(self):
        self.gib = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while True:
            self.gib = max(self.gib, resident_gib(os.getpid()))
            if self._stop.wait(PERIOD):
                return


def resident_gib(root: int) -> float:
    """Resident memory of process `root` and its descendants now."""
    parents, pages = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            # The name, in brackets, may hold anything; state and parent follow it.
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            pages[int(folder.name)] = int((folder / "statm").read_text().split()[1])
        except (OSError, IndexError):
            continue  # it has ended
        parents[int(folder.name)] = int(fields[1])
    total = 0
    for process, count in pages.items():
        ancestor = process
        while ancestor not in (root, 0) and ancestor in parents:
            ancestor = parents[ancestor]
        total += count if ancestor == root else 0
    return total * os.sysconf("SC_PAGE_SIZE") / 2**30
