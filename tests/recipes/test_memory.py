import os
import subprocess
import sys

from llasa_jax.recipes.memory import PeakMemory, resident_gib

HOLD = "import sys; block = bytes([1]) * (300 << 20); print(1, flush=True); sys.stdin.read()"


def test_memory_of_a_started_program_counts():
    before = resident_gib(os.getpid())
    assert 0.01 < before < 100
    with PeakMemory() as memory:
        with subprocess.Popen(
            [sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as child:
            child.stdout.readline()
            held = resident_gib(os.getpid())
            child.stdin.close()
    assert held > before + 0.25
    assert memory.gib > 0
    assert resident_gib(os.getpid()) < held
