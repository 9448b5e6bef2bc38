"""One server of the shipped voice, started and ended as anybody would."""

import re
import signal
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest

SLOTS, QUEUE = 4, 4


def _start(*options: object) -> tuple[subprocess.Popen, str, list[str]]:
    """`llasa serve` on a free port: the process, its address, and the lines of its log."""
    command = [sys.executable, "-m", "llasa_jax", "serve", "--port", "0", *map(str, options)]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    lines: list[str] = []
    for line in process.stderr:
        lines.append(line)
        if found := re.search(r"http://\S+", line):
            threading.Thread(target=lambda: lines.extend(process.stderr), daemon=True).start()
            return process, found[0], lines
    raise AssertionError("".join(lines))


@pytest.fixture(scope="session")
def start():
    return _start


@pytest.fixture(scope="session")
def server():
    process, address, lines = _start("--slots", SLOTS, "--queue", QUEUE)
    yield SimpleNamespace(address=address, lines=lines, most=SLOTS + QUEUE)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=120) == 0
    assert not any("Traceback" in line for line in lines), "".join(lines)
    assert lines[-1] == "served what was asked; ended\n"
